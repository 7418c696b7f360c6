/**
 * Carries out a script of steps.ts on the kernel's device mapper, from inside: Python, which reads
 * the script at /run/files/steps and writes the transcript beside it. Disks that a script makes are
 * slices of the disk "pool". Reads and writes go past the page cache, so that what the script says
 * is what the target sees.
 */
export const guestProgram = String.raw`
import concurrent.futures, errno, fcntl, hashlib, mmap, os, re, struct, subprocess, sys, time

SECTOR = 512
SLOT = 16384
descriptors = {}
slots = {}
messages = os.open('/dev/kmsg', os.O_RDONLY | os.O_NONBLOCK)
os.lseek(messages, 0, os.SEEK_END)

class Refused(Exception):
    pass

def stream(sector, count, seed):
    digest = lambda n: hashlib.sha256(b'%d %d' % (seed, n)).digest()
    return b''.join(digest(sector + i) * 16 for i in range(count))

# What the kernel has logged since the last call, by dm's table code.
def complaints():
    found = []
    while True:
        try:
            text = os.read(messages, 8192).decode(errors='replace')
        except BlockingIOError:
            return found
        except BrokenPipeError:
            continue
        match = re.search(r';device-mapper: table: [0-9:]+: (?:\S+?: )?(.*?)(?: \(-\w+\))?\n', text)
        if match:
            found.append(match[1])

# What dmsetup asks of the kernel, without a process for each question: struct dm_ioctl, then data.
control = os.open('/dev/mapper/control', os.O_RDWR)
HEADER = struct.Struct('=3I2IIiIIIQ128s129s7x')
TARGET = struct.Struct('=QQiI16s')
CREATE, REMOVE, SUSPEND, LOAD, STATUS = 3, 4, 6, 9, 12
TABLE_LINES, SUSPENDED, NO_FLUSH = 16, 2, 2048

def ask(command, name, flags=0, targets=0, data=b''):
    size = HEADER.size + max(len(data), 8192)
    header = HEADER.pack(4, 0, 0, size, HEADER.size, targets, 0, flags, 0, 0, 0, name.encode(), b'')
    request = bytearray(header + data).ljust(size, b'\0')
    complaints()
    try:
        fcntl.ioctl(control, 0xc000fd00 | HEADER.size << 16 | command, request)
    except OSError as error:
        texts = ' | '.join(complaints())
        raise Refused(errno.errorcode[error.errno] + ' [' + texts + ']')
    return request

# What the script calls the devices, by their numbers.
names = {}

def learn(path, name):
    number = os.stat(path).st_rdev
    names['%d:%d' % (os.major(number), os.minor(number))] = name

for entry in os.scandir('/dev'):
    if entry.is_symlink() and os.path.exists(entry.path):
        learn(entry.path, '@' + entry.name)

def create(name, text):
    number = HEADER.unpack_from(ask(CREATE, name))[10]
    try:
        load(name, text)
        ask(SUSPEND, name)
    except Refused:
        ask(REMOVE, name)
        raise
    os.symlink('/dev/dm-%d' % (number & 0xff), '/dev/mapper/' + name)
    learn('/dev/mapper/' + name, ('@' if name in slots else 'dm:') + name)

def load(name, text):
    data = b''
    lines = text.split('\n')
    for line in lines:
        begin, length, kind, *words = line.split(' ', 3)
        words = ' '.join(words).encode() + b'\0'
        words = words.ljust(-(-len(words) // 8) * 8, b'\0')
        data += TARGET.pack(int(begin), int(length), 0, TARGET.size + len(words), kind.encode())
        data += words
    ask(LOAD, name, targets=len(lines), data=data)

def remove(name):
    ask(REMOVE, name)
    os.unlink('/dev/mapper/' + name)

def lines_of(name, flags):
    answer = ask(STATUS, name, flags)
    _, _, _, _, start, count, *_ = HEADER.unpack_from(answer)
    found = []
    at = start
    for _ in range(count):
        begin, length, _, following, kind = TARGET.unpack_from(answer, at)
        words = answer[at + TARGET.size:].split(b'\0', 1)[0]
        found.append('%d %d %s %s' % (begin, length, kind.rstrip(b'\0').decode(), words.decode()))
        at = start + following
    return '; '.join(line.rstrip() for line in found)

def node(name):
    return '/dev/mapper/' + name if os.path.exists('/dev/mapper/' + name) else '/dev/' + name

def opened(name):
    if name not in descriptors:
        descriptors[name] = os.open(node(name), os.O_RDWR | os.O_DIRECT)
    return descriptors[name]

def close(name):
    if name in descriptors:
        os.close(descriptors.pop(name))

def table(text):
    text = re.sub(r'(?:@|dm:)([\w.-]+)', lambda match: node(match[1]), text)
    return text.replace('; ', '\n')

# Device numbers back into what the script calls them.
def named(text):
    return re.sub(r'\b\d+:\d+\b', lambda match: names.get(match[0], match[0]), text)

def buffer(count):
    return mmap.mmap(-1, count * SECTOR)

def pull(name, sector, count):
    digest = hashlib.sha256()
    while count > 0:
        now = min(count, 2048)
        area = buffer(now)
        got = os.preadv(opened(name), [area], sector * SECTOR)
        if got != now * SECTOR:
            raise OSError(errno.EIO, 'short')
        digest.update(area)
        sector += now
        count -= now
    return digest.hexdigest()[:32]

def push(name, sector, count, seed):
    area = buffer(count)
    area.write(stream(sector, count, seed))
    if os.pwritev(opened(name), [area], sector * SECTOR) != count * SECTOR:
        raise OSError(errno.EIO, 'short')

def slice_of(name, sectors):
    return '0 %d linear /dev/pool %d' % (sectors, slots[name] * SLOT)

def disk(name, sectors):
    assert sectors <= SLOT
    slots[name] = len(slots)
    create(name, slice_of(name, sectors))

def grow(name, sectors):
    assert sectors <= SLOT
    load(name, slice_of(name, sectors))
    ask(SUSPEND, name, SUSPENDED | NO_FLUSH)
    ask(SUSPEND, name)

def until(name, words):
    limit = time.monotonic() + 60
    while True:
        status = lines_of(name, 0)
        if re.search(words, status):
            return 'ok'
        if time.monotonic() > limit:
            return 'stays at ' + status
        time.sleep(0.02)

def carry_out(line):
    verb, name, *rest = (line + ' ').split(' ', 2)
    rest = ''.join(rest).strip()
    values = [int(word) for word in rest.split()] if re.fullmatch(r'[\d ]+', rest) else []
    if verb in ('write', 'pour'):
        push(name, *values)
    elif verb == 'poke':
        area = buffer(1)
        area.write(bytes.fromhex(rest))
        os.pwrite(opened(name), area, 0)
    elif verb == 'read':
        return pull(name, 0, os.lseek(opened(name), 0, os.SEEK_END) // SECTOR)
    elif verb == 'peek':
        return pull(name, *values)
    elif verb in ('discard', 'zero'):
        place = struct.pack('QQ', values[0] * SECTOR, values[1] * SECTOR)
        fcntl.ioctl(opened(name), {'discard': 0x1277, 'zero': 0x127f}[verb], place)
    elif verb == 'flush':
        os.fsync(opened(name))
    elif verb == 'create':
        create(name, table(rest))
    elif verb == 'load':
        load(name, table(rest))
    elif verb == 'suspend':
        ask(SUSPEND, name, SUSPENDED)
    elif verb == 'resume':
        ask(SUSPEND, name)
    elif verb == 'remove':
        close(name)
        remove(name)
    elif verb in ('status', 'table'):
        return named(lines_of(name, TABLE_LINES if verb == 'table' else 0))
    elif verb == 'disk':
        disk(name, *values)
    elif verb == 'grow':
        close(name)
        grow(name, *values)
    elif verb == 'until':
        return until(name, rest)
    elif verb == 'targets':
        said = subprocess.run(['dmsetup', 'targets'], check=True, capture_output=True, text=True)
        return '; '.join(said.stdout.splitlines())
    else:
        raise ValueError(line)
    return 'ok'

def answer(line):
    try:
        return carry_out(line)
    except Refused as refused:
        return str(refused)
    except OSError as error:
        return errno.errorcode[error.errno]

with open('steps') as source, open('transcript', 'w') as transcript:
    waiting = None
    tell = lambda line, result: print(line, '->', result, file=transcript, flush=True)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for line in source.read().splitlines():
            verb, *words = line.split()
            if verb == 'together':
                waiting = []
            elif verb == 'done':
                for text, future in waiting:
                    tell(text, future.result())
                waiting = None
            elif verb == 'poweroff':
                transcript.close()
                if waiting is not None:
                    ends = concurrent.futures.as_completed([future for _, future in waiting])
                    for _ in range(-(-len(waiting) // 4)):
                        next(ends)
                with open('/proc/sysrq-trigger', 'w') as trigger:
                    trigger.write('o')
                time.sleep(60)
            elif waiting is not None:
                opened(words[0])
                waiting.append((line, pool.submit(answer, line)))
            else:
                tell(line, answer(line))
`;
