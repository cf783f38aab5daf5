//! SYNs in mid-connection, which are rare: a small table in which a newer one replaces an older.
//!
//! What is lost when two flows meet in a cell: the answer to the older SYN does not close its
//! entry. The answer is dropped all the same, both ends repeat theirs, and the next SYN is noted
//! anew.

use crate::cpu::present;

/// Flows for each cell.
const FLOWS_PER_CELL: u32 = 128;

/// Cells of the smallest table.
const CELLS_MIN: u32 = 64;

#[derive(Clone, Copy, Debug)]
struct Cell {
    slot: u32,
    sequence: u32,
}

/// Sequence numbers of the last SYN in mid-connection, by slot.
#[derive(Debug)]
pub(super) struct Challenges {
    /// A power of two of them.
    cells: Vec<Cell>,
}

impl Challenges {
    /// A table for `flows` flows.
    pub(super) fn new(flows: u32) -> Self {
        let count = (flows / FLOWS_PER_CELL).max(CELLS_MIN);
        let count = count.checked_next_power_of_two().unwrap_or(CELLS_MIN);
        let empty = Cell {
            slot: u32::MAX,
            sequence: 0,
        };
        Self {
            cells: present(empty, count as usize),
        }
    }

    /// Notes the SYN of a flow.
    pub(super) fn note(&mut self, slot: u32, sequence: u32) {
        let at = self.cell(slot);
        if let Some(cell) = self.cells.get_mut(at) {
            *cell = Cell { slot, sequence };
        }
    }

    /// The flow's last SYN, unless another one has taken its place.
    pub(super) fn of(&self, slot: u32) -> Option<u32> {
        let cell = self.cells.get(self.cell(slot))?;
        (cell.slot == slot).then_some(cell.sequence)
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Cell>().saturating_mul(self.cells.len())
    }

    fn cell(&self, slot: u32) -> usize {
        slot as usize & self.cells.len().wrapping_sub(1)
    }
}
