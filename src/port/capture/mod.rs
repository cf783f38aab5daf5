//! Capture files: frames with the times and lengths they were captured with.
//!
//! [`Capture`] reads pcap and pcapng in either byte order, [`CaptureWriter`] writes pcap with
//! nanoseconds. A file is hostile input: what is wrong with it becomes a [`CaptureError`] that
//! names the packet, and reading ends there.
//!
//! A capture is not a [`super::Port`]: a port's frames carry neither a time nor an original length
//! nor an index, and those are what a replay judges by and reports. Whoever replays through ports
//! writes the bytes into [`super::MemoryFrames`] and queues the frames at a [`super::MemoryPort`].
//!
//! `pcap-file` splits the files into packets and blocks. The packets are read here, from its raw
//! forms, because its own reading refuses what a snap length cut (original length over the snap
//! length) and takes all pcapng times for nanoseconds.

mod blocks;

use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapReader, PcapWriter, RawPcapPacket};
use pcap_file::pcapng::PcapNgReader;
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};

use blocks::Blocks;

/// Snap length that written files state: what tcpdump writes for "no limit".
const SNAP_LEN: u32 = 262_144;
/// First bytes of a pcapng file: the type of the section header block.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// First bytes of pcap files: microseconds and nanoseconds in both byte orders.
const PCAP_MAGICS: [[u8; 4]; 4] = [
    [0xa1, 0xb2, 0xc3, 0xd4],
    [0xd4, 0xc3, 0xb2, 0xa1],
    [0xa1, 0xb2, 0x3c, 0x4d],
    [0x4d, 0x3c, 0xb2, 0xa1],
];

/// One captured frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedFrame {
    /// Position among the packets of the file, 0-based.
    pub index: u64,
    /// Time since the Unix epoch as the file has it: it may go back from frame to frame. A packet
    /// without a time (pcapng's simple packets) has that of the packet before.
    pub time: Duration,
    /// Length on the wire; never under the length of `bytes`.
    pub original_len: usize,
    /// What was captured of the frame.
    pub bytes: Vec<u8>,
    /// Name of the interface it was captured on, where the file has it (pcapng's `if_name`).
    pub interface_name: Option<Arc<str>>,
}

/// Frames of a capture file, in file order. After an error there are no more.
#[derive(Debug)]
pub struct Capture<R: Read> {
    source: Source<R>,
    index: u64,
    is_over: bool,
}

/// What a reader becomes once its first four bytes have been looked at.
type Restarted<R> = io::Chain<Cursor<[u8; 4]>, R>;

#[derive(Debug)]
enum Source<R: Read> {
    Pcap(PcapReader<Restarted<R>>),
    Blocks(Blocks<Restarted<R>>),
}

impl Capture<File> {
    /// Opens a file.
    ///
    /// # Errors
    /// Where it cannot be opened, and as [`Capture::new`].
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let file = File::open(path).map_err(|source| CaptureError::Open {
            path: path.to_owned(),
            source,
        })?;
        Self::new(file)
    }
}

impl<R: Read> Capture<R> {
    /// Reads a capture's beginning. Reading is buffered.
    ///
    /// # Errors
    /// Where it is neither pcap nor pcapng, or pcap of another link type than Ethernet.
    pub fn new(mut reader: R) -> Result<Self, CaptureError> {
        let mut magic = [0; 4];
        reader.read_exact(&mut magic).map_err(|source| {
            if source.kind() == io::ErrorKind::UnexpectedEof {
                CaptureError::NotACapture
            } else {
                CaptureError::Read { index: 0, source }
            }
        })?;
        let restarted = Cursor::new(magic).chain(reader);
        let source = if magic == PCAPNG_MAGIC {
            let reader = PcapNgReader::new(restarted).map_err(|error| named(0, error))?;
            Source::Blocks(Blocks::new(reader))
        } else if PCAP_MAGICS.contains(&magic) {
            let reader = PcapReader::new(restarted).map_err(|error| named(0, error))?;
            check_link_type(reader.header().datalink)?;
            Source::Pcap(reader)
        } else {
            return Err(CaptureError::NotACapture);
        };
        Ok(Self {
            source,
            index: 0,
            is_over: false,
        })
    }
}

impl<R: Read> Iterator for Capture<R> {
    type Item = Result<CapturedFrame, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let index = self.index;
        let frame = match &mut self.source {
            Source::Pcap(reader) => next_of_pcap(reader, index),
            Source::Blocks(blocks) => blocks.next_frame(index),
        };
        self.index += 1;
        self.is_over = !matches!(frame, Some(Ok(_)));
        frame
    }
}

fn next_of_pcap<R: Read>(
    reader: &mut PcapReader<R>,
    index: u64,
) -> Option<Result<CapturedFrame, CaptureError>> {
    let resolution = reader.header().ts_resolution;
    let packet = match reader.next_raw_packet()? {
        Ok(packet) => packet,
        Err(error) => return Some(Err(named(index, error))),
    };
    let fraction = match resolution {
        TsResolution::MicroSecond => Duration::from_micros(packet.ts_frac.into()),
        TsResolution::NanoSecond => Duration::from_nanos(packet.ts_frac.into()),
    };
    Some(checked(CapturedFrame {
        index,
        // Two 32-bit numbers: the sum is far from overflow.
        time: Duration::from_secs(packet.ts_sec.into()) + fraction,
        original_len: packet.orig_len as usize,
        bytes: packet.data.into_owned(),
        interface_name: None,
    }))
}

/// Refuses a frame that is longer than it was on the wire.
fn checked(frame: CapturedFrame) -> Result<CapturedFrame, CaptureError> {
    if frame.original_len < frame.bytes.len() {
        return Err(CaptureError::Broken {
            index: frame.index,
            what: "more bytes were captured than the packet had",
        });
    }
    Ok(frame)
}

/// Ethernet only. The low 16 bits are the type; some writers state an FCS length above them.
fn check_link_type(link_type: DataLink) -> Result<(), CaptureError> {
    match u32::from(link_type) & 0xffff {
        1 => Ok(()),
        number => Err(CaptureError::LinkType {
            name: format!("{:?}", DataLink::from(number)),
            number,
        }),
    }
}

/// What a packet's error is, in our words.
fn named(index: u64, error: PcapError) -> CaptureError {
    match error {
        PcapError::IncompleteBuffer => CaptureError::Cut { index },
        PcapError::IoError(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
            CaptureError::Cut { index }
        }
        PcapError::IoError(source) => CaptureError::Read { index, source },
        PcapError::InvalidField(what) => CaptureError::Broken { index, what },
        PcapError::Utf8Error(_) | PcapError::FromUtf8Error(_) => CaptureError::Broken {
            index,
            what: "a text is not UTF-8",
        },
        PcapError::InvalidInterfaceId(_) => CaptureError::Broken {
            index,
            what: "it names an interface that the file does not describe",
        },
    }
}

/// Writes frames as pcap with nanoseconds, in this machine's byte order. Nothing is buffered here.
#[derive(Debug)]
pub struct CaptureWriter<W: Write> {
    writer: PcapWriter<W>,
}

impl<W: Write> CaptureWriter<W> {
    /// Writes the file's header.
    ///
    /// # Errors
    /// Where the writer fails.
    pub fn new(writer: W) -> Result<Self, CaptureError> {
        let header = PcapHeader {
            snaplen: SNAP_LEN,
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::NanoSecond,
            endianness: Endianness::native(),
            ..PcapHeader::default()
        };
        let writer = PcapWriter::with_header(writer, header).map_err(not_written)?;
        Ok(Self { writer })
    }

    /// Writes one frame with its time and original length.
    ///
    /// # Errors
    /// Where the writer fails, or the frame does not fit the format: a time after 2106, or four
    /// gigabytes.
    pub fn write(&mut self, frame: &CapturedFrame) -> Result<(), CaptureError> {
        let broken = |what| CaptureError::Broken {
            index: frame.index,
            what,
        };
        let seconds = u32::try_from(frame.time.as_secs());
        let captured_len = u32::try_from(frame.bytes.len());
        let original_len = u32::try_from(frame.original_len.max(frame.bytes.len()));
        let (Ok(ts_sec), Ok(incl_len), Ok(orig_len)) = (seconds, captured_len, original_len) else {
            return Err(broken("its time or length does not fit into a pcap file"));
        };
        let packet = RawPcapPacket {
            ts_sec,
            ts_frac: frame.time.subsec_nanos(),
            incl_len,
            orig_len,
            data: frame.bytes.as_slice().into(),
        };
        self.writer.write_raw_packet(&packet).map_err(not_written)?;
        Ok(())
    }

    /// Flushes and gives the writer back.
    ///
    /// # Errors
    /// Where the flush fails: a full disk may show only here.
    pub fn finish(self) -> Result<W, CaptureError> {
        let mut writer = self.writer.into_writer();
        writer.flush().map_err(CaptureError::Write)?;
        Ok(writer)
    }
}

/// Errors of the writer other than of the frame, which was checked.
fn not_written(error: PcapError) -> CaptureError {
    match error {
        PcapError::IoError(source) => CaptureError::Write(source),
        other => CaptureError::Write(io::Error::other(other)),
    }
}

/// What is wrong with a capture file. Packets are counted from 0, as in `replay --verdicts`.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its first bytes are neither pcap's nor pcapng's.
    #[error("not a capture: neither pcap nor pcapng")]
    NotACapture,
    /// It was captured on something else than Ethernet.
    #[error("link type {number} ({name}) is not supported: Ethernet (1) only")]
    LinkType {
        /// The link type's name.
        name: String,
        /// Its number in the registry of tcpdump.org.
        number: u32,
    },
    /// Reading failed.
    #[error("packet {index} cannot be read")]
    Read {
        /// The packet after the last good one.
        index: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file ends within a packet.
    #[error("packet {index} is cut: the file ends within it")]
    Cut {
        /// The packet after the last good one.
        index: u64,
    },
    /// The file contradicts its format.
    #[error("packet {index} is broken: {what}")]
    Broken {
        /// The packet at which it was found.
        index: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Writing failed.
    #[error("cannot write the capture")]
    Write(#[source] io::Error),
}

#[cfg(test)]
mod tests;
