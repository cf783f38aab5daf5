//! Packets of a pcapng file (draft-ietf-opsawg-pcapng): sections, the interfaces they describe, and
//! the three kinds of packet blocks.

use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use pcap_file::pcapng::PcapNgReader;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::{
    ENHANCED_PACKET_BLOCK, INTERFACE_DESCRIPTION_BLOCK, PACKET_BLOCK, SECTION_HEADER_BLOCK,
    SIMPLE_PACKET_BLOCK,
};
use pcap_file::{DataLink, Endianness};

use super::{CaptureError, CapturedFrame, check_link_type, checked, named};

/// Reads packet blocks.
pub(super) struct Blocks<R: Read> {
    reader: PcapNgReader<R>,
    /// Of the current section.
    interfaces: Vec<Interface>,
    /// Time of the packet before.
    time: Duration,
}

/// What an interface description block says.
#[derive(Clone, Debug)]
struct Interface {
    link_type: DataLink,
    snap_len: u32,
    name: Option<Arc<str>>,
    resolution: u8,
    offset_seconds: u64,
}

/// What the three packet blocks have in common.
struct Packet<'a> {
    interface: u32,
    /// In units of the interface's resolution.
    time: Option<u64>,
    captured_len: u32,
    original_len: u32,
    data: &'a [u8],
}

impl<R: Read> fmt::Debug for Blocks<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocks")
            .field("interfaces", &self.interfaces)
            .finish_non_exhaustive()
    }
}

impl<R: Read> Blocks<R> {
    pub(super) fn new(reader: PcapNgReader<R>) -> Self {
        Self {
            reader,
            interfaces: Vec::new(),
            time: Duration::ZERO,
        }
    }

    /// The next packet, past all other blocks.
    pub(super) fn next_frame(&mut self, index: u64) -> Option<Result<CapturedFrame, CaptureError>> {
        loop {
            let is_little = self.reader.section().endianness == Endianness::Little;
            let block = match self.reader.next_raw_block()? {
                Ok(block) => block,
                Err(error) => return Some(Err(named(index, error))),
            };
            let fields = Fields {
                bytes: &block.body,
                is_little,
            };
            let packet = match block.type_ {
                SECTION_HEADER_BLOCK => {
                    self.interfaces.clear();
                    continue;
                }
                INTERFACE_DESCRIPTION_BLOCK => {
                    self.interfaces
                        .extend(self.reader.interfaces().last().map(Interface::new));
                    continue;
                }
                ENHANCED_PACKET_BLOCK => enhanced(fields),
                PACKET_BLOCK => obsolete(fields),
                SIMPLE_PACKET_BLOCK => simple(
                    fields,
                    self.interfaces.first().map_or(0, |first| first.snap_len),
                ),
                _ => continue,
            };
            let frame = frame(index, packet.as_ref(), &self.interfaces, self.time);
            if let Ok(frame) = &frame {
                self.time = frame.time;
            }
            return Some(frame);
        }
    }
}

impl Interface {
    fn new(block: &InterfaceDescriptionBlock<'_>) -> Self {
        let mut interface = Self {
            link_type: block.linktype,
            snap_len: block.snaplen,
            name: None,
            // Microseconds where nothing is said.
            resolution: 6,
            offset_seconds: 0,
        };
        for option in &block.options {
            match option {
                InterfaceDescriptionOption::IfName(name) => {
                    // Some writers count the terminating zero.
                    interface.name = Some(name.trim_end_matches('\0').into());
                }
                InterfaceDescriptionOption::IfTsResol(resolution) => {
                    interface.resolution = *resolution;
                }
                InterfaceDescriptionOption::IfTsOffset(seconds) => {
                    interface.offset_seconds = *seconds;
                }
                _ => {}
            }
        }
        interface
    }

    /// Time since the epoch of a count of this interface's units: with the highest bit 2⁻ⁿ
    /// seconds, else 10⁻ⁿ. `None` before the epoch, or where nanoseconds overflow.
    fn time(&self, units: u64) -> Option<Duration> {
        const NANOSECONDS: u128 = 1_000_000_000;
        let exponent = u32::from(self.resolution & 0x7f);
        let scaled = u128::from(units) * NANOSECONDS;
        let nanoseconds = if self.resolution & 0x80 == 0 {
            // A unit so small that its divisor overflows makes any count no time at all.
            10_u128
                .checked_pow(exponent)
                .map_or(0, |divisor| scaled / divisor)
        } else {
            scaled >> exponent
        };
        let seconds = u64::try_from(nanoseconds / NANOSECONDS).ok()?;
        let rest = u32::try_from(nanoseconds % NANOSECONDS).ok()?;
        // The offset is signed; its bits are kept as they were read.
        let seconds = seconds.checked_add_signed(self.offset_seconds.cast_signed())?;
        Some(Duration::new(seconds, rest))
    }
}

/// Makes a frame of a packet block.
fn frame(
    index: u64,
    packet: Option<&Packet<'_>>,
    interfaces: &[Interface],
    time_before: Duration,
) -> Result<CapturedFrame, CaptureError> {
    let broken = |what| CaptureError::Broken { index, what };
    let packet = packet.ok_or(broken("its block is too short"))?;
    let interface = interfaces.get(packet.interface as usize).ok_or(broken(
        "it names an interface that the file does not describe",
    ))?;
    check_link_type(interface.link_type)?;
    let bytes = packet
        .data
        .get(..packet.captured_len as usize)
        .ok_or(broken("its block is too short"))?;
    let time = match packet.time {
        None => time_before,
        Some(units) => interface
            .time(units)
            .ok_or(broken("its time is out of range"))?,
    };
    checked(CapturedFrame {
        index,
        time,
        original_len: packet.original_len as usize,
        bytes: bytes.to_vec(),
        interface_name: interface.name.clone(),
    })
}

/// Enhanced packet block, §4.3.
fn enhanced(fields: Fields<'_>) -> Option<Packet<'_>> {
    Some(Packet {
        interface: fields.u32(0)?,
        time: Some(fields.time(4)?),
        captured_len: fields.u32(12)?,
        original_len: fields.u32(16)?,
        data: fields.bytes.get(20..)?,
    })
}

/// Packet block, obsolete but legal, appendix A.
fn obsolete(fields: Fields<'_>) -> Option<Packet<'_>> {
    Some(Packet {
        interface: fields.u16(0)?.into(),
        time: Some(fields.time(4)?),
        captured_len: fields.u32(12)?,
        original_len: fields.u32(16)?,
        data: fields.bytes.get(20..)?,
    })
}

/// Simple packet block, §4.4: of the first interface, cut by its snap length, without a time.
fn simple(fields: Fields<'_>, snap_len: u32) -> Option<Packet<'_>> {
    let original_len = fields.u32(0)?;
    let limit = if snap_len == 0 { u32::MAX } else { snap_len };
    Some(Packet {
        interface: 0,
        time: None,
        captured_len: original_len.min(limit),
        original_len,
        data: fields.bytes.get(4..)?,
    })
}

/// Numbers of a block in its section's byte order.
#[derive(Clone, Copy)]
struct Fields<'a> {
    bytes: &'a [u8],
    is_little: bool,
}

impl Fields<'_> {
    fn u16(&self, at: usize) -> Option<u16> {
        let bytes = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.is_little {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let bytes = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.is_little {
            u32::from_le_bytes(bytes)
        } else {
            u32::from_be_bytes(bytes)
        })
    }

    /// A time: its high half first, in either byte order.
    fn time(&self, at: usize) -> Option<u64> {
        Some(u64::from(self.u32(at)?) << 32 | u64::from(self.u32(at + 4)?))
    }
}
