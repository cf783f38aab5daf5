//! How near an address is to what the peers of rules hold.

use std::net::IpAddr;

use hashbrown::HashMap;
use ipnet::IpNet;

use crate::policy::model::{GroupIndex, Interface, Peer, Policy};
use crate::types::Direction;

/// Bits that an address and a prefix of another family differ in: more than any.
pub(super) const FAMILY_BITS: u32 = 129;

/// How near an address is to a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closeness<'p> {
    /// Bits that it and the nearest prefix do not have in common; 0: the peer has it.
    pub(super) bits: u32,
    /// That prefix, and whose it is; `None` where the peer holds nothing.
    pub(super) nearest: Option<(IpNet, Option<&'p Interface>)>,
}

impl<'p> Closeness<'p> {
    const NOTHING: Self = Self {
        bits: FAMILY_BITS + 1,
        nearest: None,
    };

    /// Looks at one more prefix of the peer. Of equal ones the first counts.
    fn look(&mut self, remote: IpAddr, net: IpNet, of: Option<&'p Interface>) {
        let bits = bits_apart(remote, net);
        if bits < self.bits {
            *self = Self {
                bits,
                nearest: Some((net, of)),
            };
        }
    }
}

/// The peers of some groups' rules, seen from one address. Each is looked at once.
#[derive(Debug)]
pub(super) struct Peers<'p> {
    policy: &'p Policy,
    remote: IpAddr,
    known: HashMap<Peer, Closeness<'p>>,
}

impl<'p> Peers<'p> {
    /// Members are told by interfaces: all groups that are peers are looked at in one pass.
    pub(super) fn of_groups(policy: &'p Policy, groups: &[GroupIndex], remote: IpAddr) -> Self {
        let mut known = HashMap::new();
        for group in groups {
            for direction in [Direction::Ingress, Direction::Egress] {
                for rule in policy.group(*group).rules(direction) {
                    if let Peer::Group(_) = rule.peer {
                        known.insert(rule.peer, Closeness::NOTHING);
                    }
                }
            }
        }
        for interface in &policy.interfaces {
            for group in &interface.groups {
                if let Some(closeness) = known.get_mut(&Peer::Group(*group)) {
                    for net in &interface.addresses {
                        closeness.look(remote, *net, Some(interface));
                    }
                }
            }
        }
        Self {
            policy,
            remote,
            known,
        }
    }

    pub(super) fn closeness(&mut self, peer: Peer) -> Closeness<'p> {
        if let Some(known) = self.known.get(&peer) {
            return *known;
        }
        let mut closeness = Closeness::NOTHING;
        match peer {
            Peer::Cidr4(net) => closeness.look(self.remote, net.into(), None),
            Peer::Cidr6(net) => closeness.look(self.remote, net.into(), None),
            Peer::PrefixList(index) => {
                for entry in &self.policy.prefix_list(index).entries {
                    closeness.look(self.remote, entry.cidr, None);
                }
            }
            // No rule of the groups names another.
            Peer::Group(_) => {}
        }
        self.known.insert(peer, closeness);
        closeness
    }
}

/// How many bits of a prefix an address does not share, counted from the first that differs; of one
/// that has the address none.
fn bits_apart(remote: IpAddr, net: IpNet) -> u32 {
    let (common, width) = match (remote, net) {
        (IpAddr::V4(remote), IpNet::V4(net)) => {
            let differing = remote.to_bits() ^ net.network().to_bits();
            (differing.leading_zeros(), 32)
        }
        (IpAddr::V6(remote), IpNet::V6(net)) => {
            let differing = remote.to_bits() ^ net.network().to_bits();
            (differing.leading_zeros(), 128)
        }
        _ => return FAMILY_BITS,
    };
    if common >= u32::from(net.prefix_len()) {
        return 0;
    }
    // By the longest prefix in common, not by the bits that lack: 10.7.0.0/16 and 10.7.0.0/30 are
    // as near to 10.6.0.1.
    width - common
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_common_prefix_is_the_nearest() {
        let apart =
            |remote: &str, net: &str| bits_apart(remote.parse().unwrap(), net.parse().unwrap());
        assert_eq!(apart("10.7.0.9", "10.7.0.0/24"), 0);
        assert_eq!(apart("10.7.0.9", "0.0.0.0/0"), 0);
        assert_eq!(apart("10.7.0.9", "10.7.0.8/32"), 1);
        assert_eq!(apart("10.6.0.1", "10.7.0.0/16"), 17);
        assert_eq!(apart("10.6.0.1", "10.7.0.0/30"), 17);
        assert_eq!(apart("2001:db8::1", "2001:db8::/127"), 0);
        assert_eq!(apart("2001:db8::1", "::1/128"), 126);
        assert_eq!(apart("2001:db8::1", "0.0.0.0/0"), FAMILY_BITS);
    }
}
