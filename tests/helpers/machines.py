"""Two "machines" on one: network namespaces, joined by a cable, that do not share a loopback."""

import os
import shutil
import subprocess

import pytest

ADDRESSES = ["10.77.0.1", "10.77.0.2"]


class Machine:
    """A network of its own, in which commands can be run."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        # the host's name leads to a loopback that the other machine does not have
        self.environment = {**os.environ, "GLOO_SOCKET_IFNAME": name, "OMP_NUM_THREADS": "1"}

    def start(self, *command: str, **settings: object) -> subprocess.Popen:
        """Starts a command there."""
        inside = ["ip", "netns", "exec", self.name, *command]
        return subprocess.Popen(inside, env=self.environment, stderr=subprocess.PIPE, text=True, **settings)


@pytest.fixture(scope="module")
def machines():
    """Two machines; skips where the machine does not let us make network namespaces."""
    if shutil.which("ip") is None:
        pytest.skip("no `ip` here; on Debian: apt-get install iproute2")
    made = [Machine(f"dga{os.getpid()}{letter}", address) for letter, address in zip("ab", ADDRESSES, strict=True)]
    first, second = made
    steps = [["netns", "add", one.name] for one in made]
    steps += [["link", "add", first.name, "type", "veth", "peer", "name", second.name]]
    for one in made:
        steps += [["link", "set", one.name, "netns", one.name]]
        steps += [["-n", one.name, "addr", "add", f"{one.address}/24", "dev", one.name]]
        steps += [["-n", one.name, "link", "set", device, "up"] for device in ("lo", one.name)]
    try:
        for step in steps:
            done = subprocess.run(["ip", *step], capture_output=True, text=True)
            if done.returncode != 0:
                pytest.skip(f"no network namespaces here: ip {' '.join(step)}: {done.stderr.strip()}")
        yield made
    finally:
        for one in made:
            subprocess.run(["ip", "netns", "del", one.name], capture_output=True)
