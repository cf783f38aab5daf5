//! The questions and settings that still go through `ioctl(SIOCETHTOOL)`: queue counts, driver
//! name, offload features, device counters.
//!
//! Layouts: `include/uapi/linux/ethtool.h`, Linux 6.12. Each call's buffer is sized by the counts
//! that the kernel told just before. Older kernels copy out as many strings and counters as the
//! driver has at that moment, whatever length we pass, so those buffers have [`SLACK`].
#![expect(unsafe_code, reason = "ioctl buffers whose length the command defines")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::netlink::u32_at;
use super::sys;

const GDRVINFO: u32 = 0x03;
const GSTRINGS: u32 = 0x1b;
const GSTATS: u32 = 0x1d;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
const SFEATURES: u32 = 0x3b;
const GCHANNELS: u32 = 0x3c;

const STRINGS_STATS: u32 = 1;
const STRINGS_FEATURES: u32 = 4;
/// `ETH_GSTRING_LEN`.
const STRING_LEN: usize = 32;
/// Most strings of a set that are read; drivers have a few thousand at most.
const STRINGS_MAX: u32 = 1 << 16;

/// Room beyond the items that the kernel has just counted, in items: should somebody add queues
/// between two calls, their counters fit.
const SLACK: usize = 4096;

/// Queues of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Channels {
    pub(super) rx: u32,
    pub(super) tx: u32,
}

/// One offload feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Feature {
    pub(super) name: String,
    pub(super) active: bool,
    /// Whether it may be changed at all.
    pub(super) changeable: bool,
    bit: usize,
}

/// Asks and sets through ethtool.
#[derive(Debug)]
pub(super) struct Ethtool {
    fd: OwnedFd,
}

impl Ethtool {
    /// Opens a socket for it in the thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            fd: sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?,
        })
    }

    /// Name of the driver; empty where it has none.
    pub(super) fn driver(&self, device: &str) -> io::Result<String> {
        // struct ethtool_drvinfo: cmd, driver[32], version[32], …, 196 bytes.
        let mut buffer = command(GDRVINFO, 196);
        // SAFETY: the buffer is the command's structure.
        unsafe { sys::ethtool(self.fd.as_fd(), device, &mut buffer) }?;
        Ok(text(buffer.get(4..36).unwrap_or(&[])))
    }

    /// Queues in use now; an error where the driver does not tell.
    pub(super) fn channels(&self, device: &str) -> io::Result<Channels> {
        // struct ethtool_channels: cmd, max rx, tx, other, combined, then the same in use.
        let mut buffer = command(GCHANNELS, 36);
        // SAFETY: the buffer is the command's structure.
        unsafe { sys::ethtool(self.fd.as_fd(), device, &mut buffer) }?;
        let at = |index: usize| u32_at(&buffer, index * 4).unwrap_or(0);
        let combined = at(8);
        let channels = Channels {
            rx: at(5).saturating_add(combined),
            tx: at(6).saturating_add(combined),
        };
        if channels.rx == 0 || channels.tx == 0 {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        Ok(channels)
    }

    /// All features of a device.
    pub(super) fn features(&self, device: &str) -> io::Result<Vec<Feature>> {
        let names = self.strings(device, STRINGS_FEATURES)?;
        let blocks = names.len().div_ceil(32);
        // struct ethtool_gfeatures: cmd, size, then per block available, requested, active,
        // never_changed.
        let mut buffer = command(GFEATURES, 8 + blocks * 16);
        buffer[4..8].copy_from_slice(&u32::try_from(blocks).unwrap_or(0).to_ne_bytes());
        // SAFETY: the buffer has room for as many blocks as its size field says.
        unsafe { sys::ethtool(self.fd.as_fd(), device, &mut buffer) }?;
        let is_set = |bit: usize, word: usize| {
            let at = 8 + bit / 32 * 16 + word * 4;
            u32_at(&buffer, at).is_some_and(|block| block >> (bit % 32) & 1 == 1)
        };
        let features = names
            .into_iter()
            .enumerate()
            .filter(|(_, name)| !name.is_empty());
        Ok(features
            .map(|(bit, name)| Feature {
                name,
                active: is_set(bit, 2),
                changeable: is_set(bit, 0) && !is_set(bit, 3),
                bit,
            })
            .collect())
    }

    /// Asks for a feature to be on or off; whether it then is, `features` tells.
    pub(super) fn set_feature(
        &self,
        device: &str,
        feature: &Feature,
        active: bool,
    ) -> io::Result<()> {
        let blocks = feature.bit / 32 + 1;
        // struct ethtool_sfeatures: cmd, size, then per block valid, requested.
        let names = self.strings(device, STRINGS_FEATURES)?.len().div_ceil(32);
        let blocks = blocks.max(names);
        let mut buffer = command(SFEATURES, 8 + blocks * 8);
        buffer[4..8].copy_from_slice(&u32::try_from(blocks).unwrap_or(0).to_ne_bytes());
        let mask = 1_u32 << (feature.bit % 32);
        let at = 8 + feature.bit / 32 * 8;
        buffer[at..at + 4].copy_from_slice(&mask.to_ne_bytes());
        let requested = if active { mask } else { 0 };
        buffer[at + 4..at + 8].copy_from_slice(&requested.to_ne_bytes());
        // SAFETY: the buffer has as many blocks as its size field says.
        unsafe { sys::ethtool(self.fd.as_fd(), device, &mut buffer) }
    }

    /// The driver's own counters by name.
    pub(super) fn statistics(&self, device: &str) -> io::Result<Vec<(String, u64)>> {
        let names = self.strings(device, STRINGS_STATS)?;
        // struct ethtool_stats: cmd, n_stats, then the values.
        let mut buffer = command(GSTATS, 8 + names.len().saturating_add(SLACK) * 8);
        buffer[4..8].copy_from_slice(&u32::try_from(names.len()).unwrap_or(0).to_ne_bytes());
        // SAFETY: the buffer has room for the counters that the driver named just now and SLACK.
        unsafe { sys::ethtool(self.fd.as_fd(), device, &mut buffer) }?;
        let values = buffer.get(8..).unwrap_or(&[]).chunks_exact(8);
        let values = values.map(|v| v.try_into().map_or(0, u64::from_ne_bytes));
        Ok(names.into_iter().zip(values).collect())
    }

    /// A string set of a device.
    fn strings(&self, device: &str, set: u32) -> io::Result<Vec<String>> {
        // struct ethtool_sset_info: cmd, reserved, mask (64 bits), then a length for each set.
        let mut info = command(GSSET_INFO, 20);
        info[8..16].copy_from_slice(&(1_u64 << set).to_ne_bytes());
        // SAFETY: the buffer has room for the one set of the mask.
        unsafe { sys::ethtool(self.fd.as_fd(), device, &mut info) }?;
        let count = u32_at(&info, 16).unwrap_or(0).min(STRINGS_MAX);
        // struct ethtool_gstrings: cmd, set, len, then the strings.
        let mut buffer = command(GSTRINGS, 12 + (count as usize + SLACK) * STRING_LEN);
        buffer[4..8].copy_from_slice(&set.to_ne_bytes());
        buffer[8..12].copy_from_slice(&count.to_ne_bytes());
        // SAFETY: the buffer has room for the strings that the driver counted just now and SLACK.
        unsafe { sys::ethtool(self.fd.as_fd(), device, &mut buffer) }?;
        let strings = buffer.get(12..).unwrap_or(&[]).chunks_exact(STRING_LEN);
        Ok(strings.take(count as usize).map(text).collect())
    }
}

/// A zeroed buffer that begins with a command.
fn command(number: u32, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    buffer[..4].copy_from_slice(&number.to_ne_bytes());
    buffer
}

fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
