//! The gateway on the wire: the built binary between hosts in network namespaces, over virtual
//! devices and real sockets. Every test ends with the books: what came in went out or was dropped
//! and counted, by the workers and by the kernel's devices alike.
//!
//! Needs root and the programs that `scripts/setup.sh test` installs. Where something is missing a
//! test prints SKIP and why; with `CI` set it fails. `PORTCULLIS_WIRE_KEEP=1` keeps the files.
#![expect(clippy::print_stderr, reason = "a skipped test says why")]

#[cfg(test)]
#[path = "wire/attacks.rs"]
mod attacks;
#[cfg(test)]
#[path = "wire/connections.rs"]
mod connections;
#[cfg(test)]
#[path = "wire/errors.rs"]
mod errors;
#[cfg(test)]
#[path = "wire/flood.rs"]
mod flood;
#[cfg(test)]
#[path = "wire/flows.rs"]
mod flows;
#[cfg(test)]
#[path = "wire/fragments.rs"]
mod fragments;
#[cfg(test)]
#[path = "wire/frames.rs"]
mod frames;
#[cfg(test)]
#[path = "wire/host.rs"]
mod host;
#[cfg(test)]
#[path = "wire/lab.rs"]
mod lab;
#[cfg(test)]
#[path = "wire/life.rs"]
mod life;
#[cfg(test)]
#[path = "wire/links.rs"]
mod links;
#[cfg(test)]
#[path = "wire/reload.rs"]
mod reload;
#[cfg(test)]
#[path = "wire/replay.rs"]
mod replay;
#[cfg(test)]
#[path = "wire/rules.rs"]
mod rules;
#[cfg(test)]
#[path = "wire/strange.rs"]
mod strange;
#[cfg(test)]
#[path = "wire/workers.rs"]
mod workers;

/// One group with these rules, and one interface in it with the first inside addresses.
#[cfg(test)]
fn policy(rules: &str) -> String {
    format!(
        "[security_groups.web]\n{rules}\n[interfaces.web-1]\n\
         addresses = [\"10.7.0.10\", \"2001:db8:7:0::10\"]\ngroups = [\"web\"]\n"
    )
}

/// Hosts that exist in hand-made packets only, of each family: one outside, one inside.
#[cfg(test)]
const GHOSTS: [[&str; 2]; 2] = [
    ["10.7.0.40", "10.7.0.20"],
    ["2001:db8:7:0::40", "2001:db8:7:0::20"],
];

/// Fragments wait no longer than this for their first one, so that the books can be closed.
#[cfg(test)]
const ONE_SECOND: &str = "[conntrack.timeouts]\nfragment = 1\n";

/// How many queues and which cores a gateway has.
#[cfg(test)]
struct Shape {
    queues: u32,
    cores: &'static [usize],
}

/// One worker, and two that hand flows to one another.
#[cfg(test)]
const SHAPES: [Shape; 2] = [
    Shape {
        queues: 1,
        cores: &[1],
    },
    Shape {
        queues: 4,
        cores: &[0, 1],
    },
];

#[cfg(test)]
impl Shape {
    fn plan<'a>(&'a self, policy: &'a str) -> lab::Plan<'a> {
        lab::Plan {
            policy,
            queues: self.queues,
            frames: 8192 * self.queues,
            cores: self.cores,
            ..lab::Plan::default()
        }
    }
}

#[cfg(test)]
fn address(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}
