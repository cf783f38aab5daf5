//! The least that a stateful gateway does with a packet: one header line read, one hash, one line
//! of a table of that size touched and updated, with prefetch over the burst.

/// Address, and address and port, of an untagged IPv4 frame.
pub(crate) const WORDS_V4: [usize; 2] = [26, 30];
/// Most frames of a burst.
const BURST_MAX: usize = 64;

/// The table of that gateway.
pub(crate) struct Floor {
    table: Vec<Line>,
    mask: u64,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u64; 8]);

impl Floor {
    /// A table of as many lines as flows, or up to twice that, in the kind of memory that the
    /// gateway's own has.
    pub(crate) fn new(flows: u32) -> Self {
        let lines = (flows as usize).next_power_of_two();
        Self {
            table: portcullis::cpu::present(Line([0; 8]), lines),
            mask: lines as u64 - 1,
        }
    }

    /// Takes a burst; `words` is where the eight-byte words are that tell its flows apart.
    #[expect(clippy::expect_used, reason = "a benchmark may end")]
    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is meant")]
    pub(crate) fn run<'a>(&mut self, words: [usize; 2], frames: impl Iterator<Item = &'a [u8]>) {
        let [first, second] = words;
        let mut slots = [0_usize; BURST_MAX];
        for (slot, frame) in slots.iter_mut().zip(frames) {
            let word =
                |at: usize| u64::from_le_bytes(frame[at..at + 8].try_into().expect("eight bytes"));
            let mixed = u128::from(word(first) ^ 0x9e37_79b9_7f4a_7c15)
                * u128::from(word(second) ^ 0xd1b5_4a32_d192_ed03);
            let hash = (mixed >> 64) as u64 ^ mixed as u64;
            *slot = (hash & self.mask) as usize;
            portcullis::cpu::prefetch(&self.table[*slot]);
        }
        for slot in slots {
            self.table[slot].0[0] = self.table[slot].0[0].wrapping_add(1);
        }
    }
}
