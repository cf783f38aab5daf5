//! Network namespaces for one test, and the wire that a gateway sits in.
//!
//! ```text
//!   namespace `in`            namespace `gw`            namespace `out`
//!   eth0 10.9.0.1  ──veth──  inside   outside  ──veth──  eth0 10.9.0.2
//! ```

use std::sync::atomic::{AtomicU32, Ordering};

use super::{attempt, run};

/// A network namespace that goes when the test ends, with everything in it.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    /// Makes one under a name that no other test has.
    pub(crate) fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Relaxed: only uniqueness matters.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("portcullis-{}-{number}-{role}", std::process::id());
        run(&format!("ip netns add {name}"));
        Self { name }
    }

    /// Runs a command inside; panics if it fails.
    pub(crate) fn run(&self, line: &str) -> String {
        run(&format!("ip netns exec {} {line}", self.name))
    }

    /// Runs a command inside; says whether it succeeded.
    pub(crate) fn succeeds(&self, line: &str) -> bool {
        attempt(&format!("ip netns exec {} {line}", self.name))
            .status
            .success()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nothing better can be done in a drop than to try.
        drop(attempt(&format!("ip netns del {}", self.name)));
    }
}

/// Two hosts and the gateway between them.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) inside: Namespace,
    pub(crate) outside: Namespace,
    pub(crate) gateway: Namespace,
}

impl Wire {
    /// A wire whose devices have `queues` queues each.
    pub(crate) fn new(queues: u32) -> Self {
        let wire = Self {
            inside: Namespace::new("in"),
            outside: Namespace::new("out"),
            gateway: Namespace::new("gw"),
        };
        for (host, port, address) in [
            (&wire.inside, "inside", "10.9.0.1"),
            (&wire.outside, "outside", "10.9.0.2"),
        ] {
            let count = format!("numrxqueues {queues} numtxqueues {queues}");
            run(&format!(
                "ip -n {} link add {port} {count} type veth peer name eth0 netns {} {count}",
                wire.gateway.name, host.name
            ));
            host.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
            // Checksums and tags have to be in the frame; GRO lets the veth take redirected ones.
            host.run("ethtool -K eth0 tx off txvlan off gro on");
            host.run(&format!("ip addr add {address}/24 dev eth0"));
            host.run("ip link set eth0 up");
            wire.gateway.run(&format!("ip link set {port} up"));
        }
        wire
    }

    /// Whether any of three pings from inside to outside is answered.
    pub(crate) fn pings(&self) -> bool {
        self.inside.succeeds("ping -c 3 -i 0.2 -W 1 10.9.0.2")
    }
}
