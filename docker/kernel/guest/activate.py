"""Serves as a service manager does: activate.py SOCKET STOP COMMAND...

Listens on the unix socket SOCKET, and starts COMMAND with it (LISTEN_FDS); as soon as that has
ended well, again. It ends when STOP is there, or COMMAND has failed. The socket stays open all the
time.
"""

import os
import socket
import sys

path, stop, *command = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(128)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
while not os.path.exists(stop):
    pid = os.fork()
    if pid == 0:
        os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
        os.execvp(command[0], command)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        sys.exit(f'{command[0]}: status {status}')
os.unlink(path)
