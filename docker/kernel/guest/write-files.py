"""Writes files until it is told to stop: write-files.py FOLDER LIST STOP

Each file has its own contents and is flushed to the disk; then its line comes into LIST, as md5sum
has them. In between files are written that are removed again. It ends when STOP is there.
"""

import hashlib
import os
import sys
import time

folder, list_path, stop = sys.argv[1:]
# A file system of 64 MiB has room for them.
most = 1000


def write(name, data):
    path = os.path.join(folder, name)
    with open(path, 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return path


with open(list_path, 'a') as lines:
    number = 0
    while not os.path.exists(stop):
        if number == most:
            time.sleep(0.05)
            continue
        data = os.urandom(1 + number * 7919 % 50_000)
        name = f'file-{number}'
        write(name, data)
        lines.write(f'{hashlib.md5(data).hexdigest()}  {name}\n')
        lines.flush()
        if number % 5 == 0:
            os.unlink(write('passing', data * 3))
        number += 1
        time.sleep(0.005)
