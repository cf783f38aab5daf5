//! Making a device fit to be a port of a wire, and putting it back as it was.
//!
//! | setting | why |
//! | --- | --- |
//! | IPv6 off | the host must not talk on the wire; also removes the automatic link-local address |
//! | RX VLAN offload off | it takes the tag out of the frame before XDP sees it |
//! | LRO and hardware GRO off | they merge packets into some that no chunk holds |
//! | GRO off, generic mode only | there it comes before XDP |
//! | promiscuous mode on | frames on a wire are addressed to others |
//! | up | or nothing comes in |

use std::fs;
use std::io;

use super::device::{Device, Host};
use super::error::{Unfit, XdpError};
use super::record::{Change, Record};

/// Features that have to be off, and why; off in this order, since some depend on later ones.
const FEATURES_OFF: [(&str, &str); 4] = [
    ("rx-lro", "it merges received packets into longer ones"),
    ("rx-gro-hw", "it merges received packets into longer ones"),
    (
        "rx-vlan-hw-parse",
        "it takes VLAN tags out of frames before the gateway sees them",
    ),
    (
        "rx-vlan-stag-hw-parse",
        "it takes VLAN tags out of frames before the gateway sees them",
    ),
];

/// The same for generic mode only.
const FEATURES_OFF_GENERIC: [(&str, &str); 1] = [(
    "rx-gro",
    "it merges received packets before generic XDP sees them",
)];

/// Features that are better off; promiscuous mode alone does for most drivers.
const FEATURES_UNWANTED: [&str; 2] = ["rx-vlan-filter", "rx-vlan-stag-filter"];

/// Prepares a device, recording each change before it is made.
pub(super) fn prepare(
    host: &mut Host,
    device: &Device,
    record: &mut Record,
    notes: &mut Vec<String>,
) -> Result<(), XdpError> {
    disable_ipv6(device, record, notes)?;
    features_off(host, device, record, &FEATURES_OFF)?;
    unwanted_features_off(host, device, record, notes);
    let mut changes = Vec::new();
    if !device.has(libc::IFF_PROMISC) {
        changes.push(Change::PromiscuousOn);
    }
    if !device.has(libc::IFF_UP) {
        changes.push(Change::Up);
    }
    record.add(&changes)?;
    device.set_flags(&mut host.netlink, libc::IFF_PROMISC | libc::IFF_UP, true)?;
    if device.is_veth() {
        notes.push(format!(
            "`{}` is a veth: its peer must have TX checksum and TX VLAN offload off (`ethtool -K \
             … tx off txvlan off`)",
            device.name
        ));
    }
    Ok(())
}

/// What generic mode needs on top.
pub(super) fn prepare_generic(
    host: &Host,
    device: &Device,
    record: &mut Record,
) -> Result<(), XdpError> {
    features_off(host, device, record, &FEATURES_OFF_GENERIC)
}

/// Undoes all recorded changes, latest first, and forgets them. Goes on over failures, so that as
/// much as possible is put back; returns what was, and the first failure.
pub(super) fn restore(
    host: &mut Host,
    device: &Device,
    record: &mut Record,
) -> (Vec<String>, Result<(), XdpError>) {
    let mut done = Vec::new();
    let mut first_failure = Ok(());
    for change in record.changes().iter().rev() {
        match undo(host, device, change) {
            Ok(()) => done.push(change.undone()),
            Err(error) if first_failure.is_ok() => first_failure = Err(error),
            Err(error) => tracing::warn!(device = device.name, %error, "could not be put back"),
        }
    }
    if first_failure.is_ok() {
        first_failure = record.remove();
    }
    (done, first_failure)
}

fn undo(host: &mut Host, device: &Device, change: &Change) -> Result<(), XdpError> {
    match change {
        Change::Ipv6Off => write_ipv6(device, "0"),
        Change::FeatureOff(name) => set_feature(host, device, name, true).map(drop),
        Change::PromiscuousOn => device.set_flags(&mut host.netlink, libc::IFF_PROMISC, false),
        Change::Up => device.set_flags(&mut host.netlink, libc::IFF_UP, false),
    }
}

fn ipv6_path(device: &Device) -> String {
    format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", device.name)
}

fn write_ipv6(device: &Device, value: &str) -> Result<(), XdpError> {
    let path = ipv6_path(device);
    fs::write(&path, value)
        .map_err(|e| XdpError::system(format!("writing {value} to {path}"), "CAP_NET_ADMIN", e))
}

fn disable_ipv6(
    device: &Device,
    record: &mut Record,
    notes: &mut Vec<String>,
) -> Result<(), XdpError> {
    match fs::read_to_string(ipv6_path(device)) {
        Ok(value) if value.trim() == "0" => {
            record.add(&[Change::Ipv6Off])?;
            write_ipv6(device, "1")
        }
        Ok(_already_off) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            // The kernel takes IPv6 off a device whose MTU is under 1280, or has none at all.
            notes.push(format!(
                "`{}`: no IPv6 on this device that could be off",
                device.name
            ));
            Ok(())
        }
        Err(e) => Err(XdpError::system(
            format!("reading {}", ipv6_path(device)),
            "CAP_NET_ADMIN",
            e,
        )),
    }
}

/// Switches features off and makes sure that they are.
fn features_off(
    host: &Host,
    device: &Device,
    record: &mut Record,
    features: &[(&'static str, &'static str)],
) -> Result<(), XdpError> {
    // A device without ethtool (a tap of an old kernel) has no offload that could be on.
    let Ok(found) = host.ethtool.features(&device.name) else {
        return Ok(());
    };
    for (feature, detail) in features {
        if !found.iter().any(|f| f.name == *feature && f.active) {
            continue;
        }
        record.add(&[Change::FeatureOff((*feature).to_owned())])?;
        if !set_feature(host, device, feature, false)? {
            let reason = Unfit::Feature { feature, detail };
            return Err(XdpError::Unfit {
                device: device.name.clone(),
                reason,
            });
        }
    }
    Ok(())
}

fn unwanted_features_off(
    host: &Host,
    device: &Device,
    record: &mut Record,
    notes: &mut Vec<String>,
) {
    let Ok(found) = host.ethtool.features(&device.name) else {
        return;
    };
    for feature in found.iter().filter(|f| f.active && f.changeable) {
        if !FEATURES_UNWANTED.contains(&feature.name.as_str()) {
            continue;
        }
        let off = record
            .add(&[Change::FeatureOff(feature.name.clone())])
            .and_then(|()| set_feature(host, device, &feature.name, false));
        if !matches!(off, Ok(true)) {
            notes.push(format!(
                "`{}`: {} stays on; frames of VLANs that the host does not know may not arrive",
                device.name, feature.name
            ));
        }
    }
}

/// Sets a feature; says whether it then is as asked.
fn set_feature(host: &Host, device: &Device, name: &str, active: bool) -> Result<bool, XdpError> {
    let verb = if active { "on" } else { "off" };
    let failed = |e| {
        XdpError::system(
            format!("`{}`: {name} {verb}", device.name),
            "CAP_NET_ADMIN",
            e,
        )
    };
    let state = || -> io::Result<Option<_>> {
        Ok(host
            .ethtool
            .features(&device.name)?
            .into_iter()
            .find(|f| f.name == name))
    };
    let Some(feature) = state().map_err(failed)? else {
        return Ok(!active);
    };
    if feature.active == active {
        return Ok(true);
    }
    if feature.changeable {
        host.ethtool
            .set_feature(&device.name, &feature, active)
            .map_err(failed)?;
    }
    Ok(state().map_err(failed)?.is_some_and(|f| f.active == active))
}
