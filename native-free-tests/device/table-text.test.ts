import fc from 'fast-check';
import t from 'tap';
import { deviceBytes, tableBytes, targetsPerTable } from '../../src/base/limits.js';
import { parseSectors, parseTable, quoteWord, splitWords } from '../../src/device/table-text.js';

const sectorsMax = deviceBytes / 512;

t.test('parses lines that follow one another', async (t) => {
  t.same(parseTable('0 8 linear /dev/sda 100'), [
    { number: 1, beginSectors: 0, lengthSectors: 8, type: 'linear', args: ['/dev/sda', '100'] },
  ]);
  const text = '# volume\n\n  0\t8 zero  \r\n\n   # half\n8 1 error\r\n9 10 x a\\ b \\\\ \\#c\n';
  t.same(parseTable(text), [
    { number: 3, beginSectors: 0, lengthSectors: 8, type: 'zero', args: [] },
    { number: 6, beginSectors: 8, lengthSectors: 1, type: 'error', args: [] },
    { number: 7, beginSectors: 9, lengthSectors: 10, type: 'x', args: ['a b', '\\', '#c'] },
  ]);
});

t.test('rejects lines that do not', async (t) => {
  const texts: [string, string, string][] = [
    ['a gap', '0 8 zero\n9 8 zero', 'Gap in table (line 2 begins at sector 9, wanted 8)'],
    ['an overlap', '0 8 zero\n7 8 zero', 'Gap in table (line 2 begins at sector 7, wanted 8)'],
    ['a wrong order', '8 8 zero\n0 8 zero', 'Gap in table (line 1 begins at sector 8, wanted 0)'],
    ['the same twice', '0 8 zero\n0 8 zero', 'Gap in table (line 2 begins at sector 0, wanted 8)'],
    ['no length', '0 0 zero', 'line 1: zero-length target "zero"'],
    ['one word', '0', 'line 1: found 1 words, wanted: <first sector> <sectors> <target type> ...'],
    [
      'no type',
      '\n0 8',
      'line 2: found 2 words, wanted: <first sector> <sectors> <target type> ...',
    ],
    ['a name first', 'zero 0 8', 'line 1: first sector "zero" is not a decimal number'],
    ['hexadecimal', '0 0x8 zero', 'line 1: sectors "0x8" is not a decimal number'],
    ['a sign', '0 -8 zero', 'line 1: sectors "-8" is not a decimal number'],
    ['a fraction', '0 8.5 zero', 'line 1: sectors "8.5" is not a decimal number'],
    ['nothing', '', 'table is empty, wanted a target line'],
    ['only comments', '# a\n\n #b', 'table is empty, wanted a target line'],
  ];
  for (const [title, text, message] of texts) {
    t.throws(() => parseTable(text), { name: 'MapperError', code: 'EINVAL', message }, title);
  }
});

t.test('keeps to the largest device', async (t) => {
  t.equal(parseTable(`0 ${sectorsMax} zero`)[0]?.lengthSectors, sectorsMax);
  t.throws(() => parseTable(`0 ${sectorsMax + 1} zero`), { code: 'EINVAL' });
  t.throws(() => parseTable(`0 ${sectorsMax} zero\n${sectorsMax} 1 zero`), {
    message: `line 2: device too large: ${sectorsMax + 1} sectors`,
  });
  t.throws(() => parseTable('0 9999999999999999 zero'), { code: 'EINVAL' });
  t.throws(() => parseTable('0 99999999999999999999999 zero'), { code: 'EINVAL' });
  t.equal(parseSectors('00000000000000008'), null, 'seventeen digits');
  t.equal(parseSectors('0000000000000008'), 8);
  t.equal(parseSectors(''), null);
});

t.test('keeps to the most targets and the longest text', async (t) => {
  const lines = (count: number): string =>
    Array.from({ length: count }, (_, i) => `${i} 1 z`).join('\n');
  t.equal(parseTable(lines(targetsPerTable)).length, targetsPerTable);
  t.throws(() => parseTable(lines(targetsPerTable + 1)), {
    message: `${targetsPerTable + 1} targets in table, at most ${targetsPerTable}`,
  });
  const line = '0 8 x ';
  const longest = line + 'a'.repeat(tableBytes - line.length);
  t.equal(parseTable(longest)[0]?.args[0]?.length, tableBytes - line.length);
  t.throws(() => parseTable(`${longest}a`), {
    message: `table too long: ${tableBytes + 1} bytes, at most ${tableBytes}`,
  });
  const wide = line + 'ä'.repeat(tableBytes / 2);
  t.throws(
    () => parseTable(wide),
    { message: `table too long: ${tableBytes + line.length} bytes, at most ${tableBytes}` },
    'bytes are counted, and told',
  );
});

t.test('splits words at blanks that have no backslash', async (t) => {
  t.same(splitWords(''), []);
  t.same(splitWords(' \t\r '), []);
  t.same(splitWords('a  b'), ['a', 'b']);
  t.same(splitWords('a\\ b c'), ['a b', 'c']);
  t.same(splitWords('\\ '), [' ']);
  t.same(splitWords('a\\\\ b'), ['a\\', 'b']);
  t.same(splitWords('\\a\\b'), ['ab']);
  t.same(splitWords('a\\'), ['a\\'], 'at the end it stands for itself');
});

t.test('reads back every word that it quoted', async (t) => {
  const character = fc.oneof(
    fc.constantFrom(' ', '\t', '\r', '\\', '#', '"', 'a', 'ä', '/', ':'),
    fc.string({ unit: 'grapheme', minLength: 1, maxLength: 1 }),
  );
  const word = fc
    .array(character, { minLength: 1, maxLength: 12 })
    .map((characters) => characters.join('').replaceAll('\n', ''))
    .filter((text) => text !== '');
  fc.assert(
    fc.property(fc.array(word, { minLength: 1, maxLength: 5 }), (words) => {
      const line = words.map(quoteWord).join(' ');
      t.same(splitWords(line), words);
      t.same(parseTable(`0 8 x ${line}`)[0]?.args, words);
    }),
    { numRuns: 100 },
  );
});
