//! As much rtnetlink as the ports need: requests with attributes, answers with attributes, and
//! the kernel's own words where it refuses (extended acks).
//!
//! Layouts: `include/uapi/linux/{netlink,rtnetlink}.h`, Linux 6.12. Reading is safe slicing: a
//! short or odd answer yields fewer attributes, never a panic.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::sys;

/// Most messages read for one request: a dump of a host with very many addresses ends long before.
const MESSAGES_MAX: usize = 1 << 20;
/// The kernel's answers fit the larger of a page and 32 KiB unless we ask for more.
const RECEIVE_LEN: usize = 64 << 10;

const HEADER_LEN: usize = 16;
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const ATTRIBUTE_FLAGS: u16 = 0xc000;
const NESTED: u16 = 0x8000;
/// `NLM_F_ACK_TLVS`: the error message carries attributes.
const ACK_TLVS: u16 = 0x200;
/// `NLM_F_CAPPED`: it carries our request's header only.
const ACK_CAPPED: u16 = 0x100;
/// `NLMSGERR_ATTR_MSG`.
const ERROR_MESSAGE: u16 = 1;
/// `NLM_F_DUMP_INTR`: the list changed while it was read.
const DUMP_INTERRUPTED: u16 = 0x10;

/// A refused request.
#[derive(Debug)]
pub(super) struct NetlinkError {
    /// The errno.
    pub(super) source: io::Error,
    /// What the kernel says about it, where it says anything.
    pub(super) message: Option<String>,
}

impl NetlinkError {
    /// The kernel's words, or those of the errno.
    pub(super) fn detail(&self) -> String {
        self.message
            .clone()
            .unwrap_or_else(|| self.source.to_string())
    }

    /// The errno.
    pub(super) fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }
}

impl From<io::Error> for NetlinkError {
    fn from(source: io::Error) -> Self {
        Self {
            source,
            message: None,
        }
    }
}

/// A request under construction.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request of a type, with flags beyond NLM_F_REQUEST and its fixed header.
    pub(super) fn new(kind: u16, flags: i32, fixed: &[u8]) -> Self {
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).unwrap_or(0);
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        Self { bytes }
    }

    /// Adds an attribute.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        put(&mut self.bytes, kind, value);
        self
    }

    /// Adds an attribute that holds attributes.
    pub(super) fn nested(self, kind: u16, attributes: &[(u16, &[u8])]) -> Self {
        let mut inner = Vec::with_capacity(64);
        for (inner_kind, value) in attributes {
            put(&mut inner, *inner_kind, value);
        }
        self.attribute(kind | NESTED, &inner)
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// `struct ifinfomsg` of a device, with flags to change.
pub(super) fn ifinfomsg(ifindex: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(value.len() + ATTRIBUTE_HEADER_LEN).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&len.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Attributes of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of a kind.
    pub(super) fn find(self, kind: u16) -> Option<&'a [u8]> {
        Iterator::find(&mut { self }, |(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// The attributes inside of one.
    pub(super) fn inside(self, kind: u16) -> Option<Attributes<'a>> {
        self.find(kind).map(Attributes)
    }

    /// A 32-bit number.
    pub(super) fn u32(self, kind: u16) -> Option<u32> {
        self.find(kind)?
            .get(..4)?
            .try_into()
            .ok()
            .map(u32::from_ne_bytes)
    }

    /// An 8-bit number.
    pub(super) fn u8(self, kind: u16) -> Option<u8> {
        self.find(kind)?.first().copied()
    }

    /// A text that ends with a zero byte.
    pub(super) fn text(self, kind: u16) -> Option<String> {
        let bytes = self.find(kind)?;
        let end = bytes
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & !ATTRIBUTE_FLAGS;
        let value = self.0.get(ATTRIBUTE_HEADER_LEN..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// One message of an answer: its type and what follows the netlink header.
#[derive(Debug)]
pub(super) struct Message {
    /// `RTM_…`.
    pub(super) kind: u16,
    /// Fixed header and attributes.
    pub(super) body: Vec<u8>,
}

impl Message {
    /// The attributes behind a fixed header of `len` bytes.
    pub(super) fn attributes(&self, len: usize) -> Attributes<'_> {
        Attributes(self.body.get(len..).unwrap_or(&[]))
    }
}

/// A route netlink socket.
#[derive(Debug)]
pub(super) struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens one in the thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let fd = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
        for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK] {
            // Both since Linux 4.12; they only make refusals readable.
            if let Err(e) = sys::set_option(fd.as_fd(), libc::SOL_NETLINK, option, &1_u32) {
                tracing::debug!(error = %e, "no extended netlink errors on this kernel");
            }
        }
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends a request and collects its answers up to the final ack.
    pub(super) fn ask(&mut self, request: Request) -> Result<Vec<Message>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.finish(self.sequence);
        sys::send(self.fd.as_fd(), &bytes)?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; RECEIVE_LEN];
        for _ in 0..MESSAGES_MAX {
            let len = sys::receive(self.fd.as_fd(), &mut buffer)?;
            let Some(datagram) = buffer.get(..len) else {
                return Err(io::Error::from(io::ErrorKind::InvalidData).into());
            };
            if collect(datagram, self.sequence, &mut answers)? == Collected::Last {
                return Ok(answers);
            }
        }
        Err(io::Error::from(io::ErrorKind::TimedOut).into())
    }

    /// A request that has no answer but the ack.
    pub(super) fn command(&mut self, request: Request) -> Result<(), NetlinkError> {
        self.ask(request).map(drop)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Collected {
    More,
    Last,
}

/// Takes the messages of one datagram that answer request `sequence`.
fn collect(
    datagram: &[u8],
    sequence: u32,
    answers: &mut Vec<Message>,
) -> Result<Collected, NetlinkError> {
    let mut rest = datagram;
    while let Some(len) = u32_at(rest, 0) {
        let len = usize::try_from(len).unwrap_or(usize::MAX).max(HEADER_LEN);
        let Some(message) = rest.get(..len.min(rest.len())) else {
            break;
        };
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        if u32_at(message, 8) != Some(sequence) {
            continue;
        }
        let kind = u16_at(message, 4).unwrap_or(0);
        let flags = u16_at(message, 6).unwrap_or(0);
        let body = message.get(HEADER_LEN..).unwrap_or(&[]);
        if flags & DUMP_INTERRUPTED != 0 {
            return Err(io::Error::from(io::ErrorKind::Interrupted).into());
        }
        match i32::from(kind) {
            libc::NLMSG_ERROR => return acknowledged(body, flags).map(|()| Collected::Last),
            libc::NLMSG_DONE => return Ok(Collected::Last),
            _answer => answers.push(Message {
                kind,
                body: body.to_vec(),
            }),
        }
    }
    Ok(Collected::More)
}

/// Reads `struct nlmsgerr`: 0 is the ack.
fn acknowledged(body: &[u8], flags: u16) -> Result<(), NetlinkError> {
    let errno = u32_at(body, 0).map_or(libc::EPROTO, |code| code.cast_signed().wrapping_neg());
    if errno == 0 {
        return Ok(());
    }
    let message = (flags & ACK_TLVS != 0).then(|| {
        let request_len = if flags & ACK_CAPPED != 0 {
            HEADER_LEN
        } else {
            u32_at(body, 4)
                .map_or(HEADER_LEN, |len| len as usize)
                .next_multiple_of(4)
        };
        let attributes = body.get(request_len.saturating_add(4)..).unwrap_or(&[]);
        Attributes(attributes).text(ERROR_MESSAGE)
    });
    Err(NetlinkError {
        source: io::Error::from_raw_os_error(errno),
        message: message.flatten(),
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..at.checked_add(2)?)?
        .try_into()
        .ok()
        .map(u16::from_ne_bytes)
}

/// A 32-bit number at an offset.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at.checked_add(4)?)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_a_round_trip() {
        let request = Request::new(16, 0, &[0; 16])
            .attribute(4, &1500_u32.to_ne_bytes())
            .attribute(3, b"eth1\0")
            .nested(43, &[(1, &7_u32.to_ne_bytes()), (3, &4_u32.to_ne_bytes())]);
        let bytes = request.finish(9);
        assert_eq!(u32_at(&bytes, 0), Some(u32::try_from(bytes.len()).unwrap()));
        assert_eq!(u32_at(&bytes, 8), Some(9));
        let attributes = Attributes(&bytes[32..]);
        assert_eq!(attributes.u32(4), Some(1500));
        assert_eq!(attributes.text(3).as_deref(), Some("eth1"));
        let xdp = attributes.inside(43).unwrap();
        assert_eq!(
            (xdp.u32(1), xdp.u32(3), xdp.u32(2)),
            (Some(7), Some(4), None)
        );
    }

    #[test]
    fn broken_attributes_end_the_list() {
        for bytes in [
            &[0_u8, 0, 1, 0][..],
            &[3, 0, 1, 0],
            &[200, 0, 1, 0, 1],
            &[8, 0],
            &[],
        ] {
            assert_eq!(Attributes(bytes).count(), 0, "{bytes:?}");
        }
    }

    #[test]
    fn a_refusal_carries_the_kernels_words() {
        let mut body = (-libc::ERANGE).to_ne_bytes().to_vec();
        body.extend_from_slice(&[0; HEADER_LEN]);
        put(
            &mut body,
            ERROR_MESSAGE,
            b"Peer MTU is too large to set XDP\0",
        );
        let error = acknowledged(&body, ACK_TLVS | ACK_CAPPED).unwrap_err();
        assert_eq!(error.errno(), libc::ERANGE);
        assert_eq!(error.detail(), "Peer MTU is too large to set XDP");
    }

    #[test]
    fn a_refusal_without_words_is_the_errno() {
        let error = acknowledged(&(-libc::EPERM).to_ne_bytes(), 0).unwrap_err();
        assert_eq!(error.errno(), libc::EPERM);
        assert_eq!(error.message, None);
    }
}
