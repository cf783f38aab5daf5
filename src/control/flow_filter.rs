//! Which flows are meant: as it is asked ([`FlowFilter`]), and held against the policy in force
//! ([`FlowMatcher`]).

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::conntrack::{FlowState, FlowView};
use crate::packet::End;
use crate::snapshot::Snapshot;
use crate::types::{InterfaceSlot, protocol};

/// What a flow has to be. All that is given has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowFilter {
    /// Of this interface.
    pub interface: Option<String>,
    /// Admitted by a rule of this group.
    pub group: Option<String>,
    /// With this address at either end.
    pub address: Option<IpAddr>,
    /// With the other end, seen from the interface, in here.
    pub peer: Option<PeerPrefix>,
    /// TCP or UDP with this port at either end.
    pub port: Option<u16>,
    /// Of this IP protocol number.
    pub protocol: Option<u8>,
    /// In this state.
    pub state: Option<String>,
    /// Opened this many milliseconds ago, or longer.
    pub older_than_ms: Option<u64>,
    /// Opened fewer milliseconds ago.
    pub younger_than_ms: Option<u64>,
}

/// Addresses of peers: `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerPrefix(IpNet);

/// Text that is neither an address nor a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither an address nor a CIDR")]
pub struct PeerPrefixError(String);

/// A filter whose names are those of the policy in force.
#[derive(Debug)]
pub(super) struct FlowMatcher<'a> {
    snapshot: &'a Snapshot,
    interface: Option<InterfaceSlot>,
    group: Option<&'a str>,
    address: Option<IpAddr>,
    peer: Option<IpNet>,
    port: Option<u16>,
    protocol: Option<u8>,
    state: Option<FlowState>,
    age_min: Duration,
    /// The first age that is too high.
    age_end: Option<Duration>,
}

impl FlowFilter {
    /// Whether it lets every flow through.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl<'a> FlowMatcher<'a> {
    /// Looks the filter's names up.
    ///
    /// # Errors
    /// One line where the policy in force has no such interface or group, or there is no such
    /// state: an empty answer would hide a slip of the pen.
    pub(super) fn new(filter: &'a FlowFilter, snapshot: &'a Snapshot) -> Result<Self, String> {
        let interface = match &filter.interface {
            Some(name) => Some(find_interface(snapshot, name)?),
            None => None,
        };
        if let Some(wanted) = &filter.group
            && !snapshot.rules().any(|rule| *rule.group.name == **wanted)
        {
            return Err(format!("no rule of a group called `{wanted}` is in force"));
        }
        let state = match &filter.state {
            Some(name) => Some(find_state(name)?),
            None => None,
        };
        Ok(Self {
            snapshot,
            interface,
            group: filter.group.as_deref(),
            address: filter.address,
            peer: filter.peer.map(|PeerPrefix(prefix)| prefix),
            port: filter.port,
            protocol: filter.protocol,
            state,
            age_min: Duration::from_millis(filter.older_than_ms.unwrap_or(0)),
            age_end: filter.younger_than_ms.map(Duration::from_millis),
        })
    }

    /// Whether a flow is meant.
    pub(super) fn matches(&self, flow: &FlowView) -> bool {
        self.interface
            .is_none_or(|slot| slot == flow.head.interface)
            && self
                .protocol
                .is_none_or(|number| number == flow.key.protocol)
            && self.state.is_none_or(|state| state == flow.state)
            && flow.age >= self.age_min
            && self.age_end.is_none_or(|end| flow.age < end)
            && self.port.is_none_or(|port| has_port(flow, port))
            && self
                .address
                .is_none_or(|address| has_address(flow, address))
            && self.peer.is_none_or(|peer| peer.contains(&peer_of(flow)))
            && self.group.is_none_or(|name| self.is_of_group(flow, name))
    }

    fn is_of_group(&self, flow: &FlowView, name: &str) -> bool {
        let rule = flow.head.rule.and_then(|rule| self.snapshot.rule(rule));
        rule.is_some_and(|rule| *rule.group.name == *name)
    }
}

fn peer_of(flow: &FlowView) -> IpAddr {
    let (address, _) = flow.key.end(flow.head.inside_end().opposite());
    address.into()
}

fn has_address(flow: &FlowView, wanted: IpAddr) -> bool {
    [End::Low, End::High]
        .iter()
        .any(|end| IpAddr::from(flow.key.end(*end).0) == wanted)
}

/// The same places of a key hold other things in ICMP.
fn has_port(flow: &FlowView, wanted: u16) -> bool {
    matches!(flow.key.protocol, protocol::TCP | protocol::UDP)
        && [End::Low, End::High]
            .iter()
            .any(|end| flow.key.end(*end).1 == wanted)
}

fn find_interface(snapshot: &Snapshot, wanted: &str) -> Result<InterfaceSlot, String> {
    let mut interfaces = snapshot.interfaces();
    let found = interfaces.find(|(_, interface)| *interface.name == *wanted);
    found
        .map(|(_, interface)| interface.slot)
        .ok_or_else(|| format!("no interface is called `{wanted}`"))
}

fn find_state(wanted: &str) -> Result<FlowState, String> {
    let found = FlowState::ALL.iter().find(|state| state.name() == wanted);
    found.copied().ok_or_else(|| {
        let known = FlowState::ALL.map(FlowState::name).join(", ");
        format!("`{wanted}` is no state of a flow; there are {known}")
    })
}

impl std::str::FromStr for PeerPrefix {
    type Err = PeerPrefixError;

    fn from_str(text: &str) -> Result<Self, PeerPrefixError> {
        let single = text.parse::<IpAddr>().map(IpNet::from);
        let prefix = single.or_else(|_no_address| text.parse::<IpNet>());
        prefix
            .map(Self)
            .map_err(|_bad| PeerPrefixError(text.to_owned()))
    }
}

impl TryFrom<String> for PeerPrefix {
    type Error = PeerPrefixError;

    fn try_from(text: String) -> Result<Self, PeerPrefixError> {
        text.parse()
    }
}

impl From<PeerPrefix> for String {
    fn from(PeerPrefix(prefix): PeerPrefix) -> Self {
        prefix.to_string()
    }
}

#[cfg(test)]
mod tests;
