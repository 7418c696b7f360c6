import t from 'tap';
import { payloadBytes } from '../../src/base/limits.js';
import { structured } from './client.js';
import { Rig } from './rig.js';

t.test('serves every device that has a table, by its name', async (t) => {
  const rig = new Rig();
  const disk = rig.disk('/disk', 2000);
  disk.rotational = true;
  await rig.create('one', '0 1000 linear /disk 0\n1000 8 zero\n1008 8 zero');
  await rig.create('empty');
  await rig.create('ro', '0 8 linear file:///disk?direct=1 0', true);
  t.same(rig.exports.list(), [
    { name: 'one', description: 'linear, zero' },
    { name: 'ro', description: 'linear' },
  ]);
  t.same(rig.exports.find('one'), {
    name: 'one',
    description: 'linear, zero',
    sizeBytes: 1016 * 512,
    readOnly: false,
    trim: true,
    fastZero: true,
    cache: true,
    rotational: true,
    multiConn: true,
    blockBytesMin: 1,
    blockBytesPreferred: 4096,
    payloadBytesMax: payloadBytes,
  });
  t.match(rig.exports.find('ro'), { readOnly: true, sizeBytes: 4096 });
  t.equal(rig.exports.find('empty'), null);
  t.equal(rig.exports.find('nobody'), null);
  await rig.wait(rig.devices.rename('one', 'eins'));
  t.equal(rig.exports.find('one'), null);
  t.match(rig.exports.find('eins'), { name: 'eins' });
});

t.test('offers what the table can do', async (t) => {
  const rig = new Rig();
  const disk = rig.disk('/plain', 8);
  disk.canTrim = false;
  disk.canZero = false;
  rig.disk('/disk', 8);
  await rig.create('plain', '0 8 linear /disk 0\n8 8 linear /plain 0');
  t.match(rig.exports.find('plain'), { trim: false, fastZero: false, rotational: false });
  await rig.create('over', '0 16 linear dm:plain 0');
  t.match(rig.exports.find('over'), { trim: false, fastZero: false });
  await rig.create('ro', '0 8 linear /disk 0', true);
  await rig.create('above', '0 8 linear dm:ro 0');
  t.match(rig.exports.find('above'), { readOnly: true }, 'what stands on a read-only device is so');
});

t.test('takes the empty name for the default export, or for the only one', async (t) => {
  const rig = new Rig();
  t.equal(rig.exports.find(''), null, 'none');
  await rig.create('one', '0 8 zero');
  t.match(rig.exports.find(''), { name: 'one' });
  await rig.create('empty');
  t.match(rig.exports.find(''), { name: 'one' }, 'one without a table is none');
  await rig.create('two', '0 16 zero');
  t.equal(rig.exports.find(''), null, 'which of two?');
  rig.server.defaultExport = 'two';
  t.match(rig.exports.find(''), { name: 'two' });
  const client = rig.connect('', structured);
  t.equal(rig.devices.info('two').openCount, 1);
  client.leave();
  await rig.wait(rig.devices.remove('two', false));
  t.equal(rig.exports.find(''), null, 'the one that was meant is gone');
  rig.server.defaultExport = null;
  t.match(rig.exports.find(''), { name: 'one' });
  rig.atRest();
});
