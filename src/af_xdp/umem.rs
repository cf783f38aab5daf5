//! The memory area that all frames of a link lie in: page-aligned, populated, registered with the
//! kernel once and shared by the sockets of both ports.
//!
//! Who may touch a chunk is decided by ownership alone. A chunk belongs to exactly one of: a fill
//! ring, the kernel, an RX ring, a [`Frame`], a TX ring, a completion ring, a free list. Bytes are
//! read through a `&Frame` only, so while they are read the kernel does not have the chunk.
#![expect(unsafe_code, reason = "memory shared with the kernel")]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

use std::io;

use super::abi::PACKET_HEADROOM;
use super::error::XdpError;
use super::options::{HugePages, PageKind};
use super::sys::Mapping;
use crate::port::{ChunkAddr, Frame, FrameMemory};

/// Size of a huge page; other sizes are not asked for.
const HUGE_PAGE_LEN: usize = 2 << 20;

/// `MADV_POPULATE_WRITE`, Linux 5.14; not in every libc release.
const MADV_POPULATE_WRITE: i32 = 23;

/// The memory area of one link.
#[derive(Debug)]
pub struct Umem {
    mapping: Mapping,
    /// Offset of the first chunk in the mapping, so that it starts on a huge-page boundary.
    start: usize,
    len: usize,
    frame_size: u32,
    pages: PageKind,
}

impl Umem {
    /// Takes memory for `frames` chunks of `frame_size` bytes and populates it.
    pub(super) fn new(
        frames: u32,
        frame_size: u32,
        huge_pages: HugePages,
    ) -> Result<Self, XdpError> {
        let bytes = u64::from(frames).saturating_mul(u64::from(frame_size));
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        let reserve = match huge_pages {
            HugePages::Auto | HugePages::Require => Self::reserved(len, frame_size),
            HugePages::Off => Err(io::Error::from(io::ErrorKind::Unsupported)),
        };
        match (reserve, huge_pages) {
            (Ok(umem), _) => Ok(umem),
            (Err(source), HugePages::Require) => Err(XdpError::HugePages {
                count: bytes.div_ceil(HUGE_PAGE_LEN as u64),
                source,
            }),
            (Err(_), HugePages::Auto | HugePages::Off) => {
                Self::ordinary(len, frame_size, huge_pages).map_err(|source| XdpError::System {
                    action: format!("taking {bytes} bytes of memory for the UMEM"),
                    source,
                })
            }
        }
    }

    /// From reserved huge pages. The kernel reserves all of them in this call or refuses, so
    /// populating cannot fail later.
    fn reserved(len: usize, frame_size: u32) -> io::Result<Self> {
        let rounded = len
            .checked_next_multiple_of(HUGE_PAGE_LEN)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let mapping = Mapping::anonymous(rounded, libc::MAP_HUGETLB | libc::MAP_POPULATE)?;
        Ok(Self {
            mapping,
            start: 0,
            len,
            frame_size,
            pages: PageKind::Huge,
        }
        .private())
    }

    /// From ordinary memory, on a huge-page boundary so that the kernel can use huge pages.
    fn ordinary(len: usize, frame_size: u32, huge_pages: HugePages) -> io::Result<Self> {
        let total = len
            .checked_add(HUGE_PAGE_LEN)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let mapping = Mapping::anonymous(total, 0)?;
        let start = mapping.base().align_offset(HUGE_PAGE_LEN);
        let advised = huge_pages == HugePages::Auto
            && mapping.advise(start, len, libc::MADV_HUGEPAGE).is_ok();
        if mapping.advise(start, len, MADV_POPULATE_WRITE).is_err() {
            Self::touch(&mapping, start, len);
        }
        let pages = if advised {
            PageKind::Transparent
        } else {
            PageKind::Small
        };
        Ok(Self {
            mapping,
            start,
            len,
            frame_size,
            pages,
        }
        .private())
    }

    /// Populates memory page by page where the kernel has no call for it.
    fn touch(mapping: &Mapping, start: usize, len: usize) {
        const PAGE_LEN: usize = 4096;
        for at in (start..start.saturating_add(len)).step_by(PAGE_LEN) {
            // SAFETY: `advise` has checked that the range lies inside of the mapping.
            let byte = unsafe { mapping.base().add(at) };
            // SAFETY: in bounds, and nobody else knows this mapping yet.
            unsafe { byte.write_volatile(0) };
        }
    }

    /// Keeps packets out of core dumps, and pinned pages out of forked children.
    fn private(self) -> Self {
        for advice in [libc::MADV_DONTDUMP, libc::MADV_DONTFORK] {
            if self.mapping.advise(self.start, self.len, advice).is_err() {
                // Hugetlb mappings refuse some advices; both are a courtesy, not a need.
                tracing::debug!(advice, "the kernel does not take this advice for the UMEM");
            }
        }
        self
    }

    /// Addresses of all chunks. Give each out once: it is the right to the chunk's bytes.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkAddr> + use<> {
        let frame_size = u64::from(self.frame_size);
        (0..u64::from(self.frames())).map(move |index| ChunkAddr(index.saturating_mul(frame_size)))
    }

    /// The chunk that an address lies in.
    #[inline]
    #[must_use]
    pub fn chunk_of(&self, addr: u64) -> ChunkAddr {
        // `frame_size` is a power of two (checked by `Link::open`).
        ChunkAddr(addr & !u64::from(self.frame_size).wrapping_sub(1))
    }

    /// Whether a packet at `addr` lies inside of the area and of one chunk.
    #[inline]
    #[must_use]
    pub(super) fn holds(&self, addr: u64, len: u32) -> bool {
        let offset = addr & u64::from(self.frame_size).wrapping_sub(1);
        addr < self.len as u64
            && offset.saturating_add(u64::from(len)) <= u64::from(self.frame_size)
    }

    /// Address of the first byte, for registration.
    pub(super) fn address(&self) -> u64 {
        (self.mapping.base().as_ptr().expose_provenance() as u64).saturating_add(self.start as u64)
    }

    /// Bytes of all chunks.
    #[must_use]
    pub fn bytes_count(&self) -> u64 {
        self.len as u64
    }

    /// Bytes of a chunk.
    #[must_use]
    pub fn frame_size(&self) -> u32 {
        self.frame_size
    }

    /// Bytes of the longest packet that a chunk takes.
    #[must_use]
    pub fn packet_len_max(&self) -> u32 {
        self.frame_size.saturating_sub(PACKET_HEADROOM)
    }

    /// How many chunks there are.
    #[must_use]
    pub fn frames(&self) -> u32 {
        let frames = (self.len as u64)
            .checked_div(u64::from(self.frame_size))
            .unwrap_or(0);
        u32::try_from(frames).unwrap_or(u32::MAX)
    }

    /// Which pages hold it.
    #[must_use]
    pub fn pages(&self) -> PageKind {
        self.pages
    }
}

impl FrameMemory for Umem {
    #[inline]
    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        if !self.holds(frame.addr(), frame.len()) {
            return &[];
        }
        // On 64 bits the conversion is free and cannot fail; elsewhere `holds` has bounded it.
        let at = self
            .start
            .saturating_add(usize::try_from(frame.addr()).unwrap_or(usize::MAX));
        // SAFETY: `holds` says that the packet lies inside of the area, which lies in the mapping.
        let first = unsafe { self.mapping.base().add(at) };
        // SAFETY: the range is inside of the mapping, which lives as long as `self`, and was
        // initialised when it was populated. The frame owns its chunk: frames are made only from
        // descriptors of an RX ring of this link (or by the owner of a chunk), cannot be copied,
        // and are consumed by `transmit`, so the kernel does not write here while `frame` is
        // borrowed.
        unsafe { std::slice::from_raw_parts(first.as_ptr(), frame.len() as usize) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Umem {
        Umem::new(8, 2048, HugePages::Off).unwrap()
    }

    #[test]
    fn chunks_are_all_frames_once() {
        let umem = small();
        let chunks: Vec<_> = umem.chunks().map(|chunk| chunk.0).collect();
        assert_eq!(chunks, (0..8).map(|index| index * 2048).collect::<Vec<_>>());
        assert_eq!(umem.frames(), 8);
    }

    #[test]
    fn chunk_of_any_address_is_its_start() {
        let umem = small();
        for addr in [0, 1, 255, 2047] {
            assert_eq!(umem.chunk_of(addr), ChunkAddr(0));
        }
        assert_eq!(umem.chunk_of(2048 + 256), ChunkAddr(2048));
    }

    #[test]
    fn packets_outside_of_a_chunk_are_refused() {
        let umem = small();
        assert!(umem.holds(256, 1792));
        assert!(!umem.holds(256, 1793));
        assert!(umem.holds(7 * 2048 + 256, 1792));
        assert!(!umem.holds(8 * 2048, 0));
        assert!(!umem.holds(u64::MAX, 1));
        assert!(!umem.holds(0, u32::MAX));
    }

    #[test]
    fn bytes_of_a_frame_outside_are_empty() {
        let umem = small();
        assert!(umem.bytes(&Frame::new(8 * 2048, 64)).is_empty());
        assert_eq!(umem.bytes(&Frame::new(7 * 2048 + 256, 64)).len(), 64);
    }

    #[test]
    fn memory_starts_on_a_huge_page_boundary() {
        let umem = Umem::new(8, 2048, HugePages::Auto).unwrap();
        assert_eq!(umem.address() % HUGE_PAGE_LEN as u64, 0);
    }
}
