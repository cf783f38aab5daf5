//! Slot numbers of interfaces and rules in 24 bits.
//!
//! Slots are 32 bits, and used again only when no flow names them; those that flows name at one
//! time are few and near each other. The high half of a slot is replaced by
//! the number of a *page*: 255 of them, each counting the flows that name it, so that a page is
//! free for another high half when its last flow is gone. 16 million slots can be named at a time.

/// Pages; one more number would fit, but it stands for none.
const PAGES: usize = 255;

/// A slot number, or none, in 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Narrow([u8; 3]);

impl Narrow {
    /// No slot.
    pub(super) const NONE: Self = Self([u8::MAX; 3]);

    fn page(self) -> usize {
        let [page, ..] = self.0;
        usize::from(page)
    }
}

/// The pages of one kind of slot.
#[derive(Debug)]
pub(super) struct Numbers {
    /// High half of the slots of each page.
    highs: [u16; PAGES],
    /// Flows that name a slot of it; 0: the page is free.
    names: [u32; PAGES],
    /// The page that was asked for last.
    last: usize,
}

impl Numbers {
    pub(super) fn new() -> Self {
        Self {
            highs: [0; PAGES],
            names: [0; PAGES],
            last: 0,
        }
    }

    /// Names a slot once more; `None` if there is no page for it.
    #[inline]
    pub(super) fn take(&mut self, slot: u32) -> Option<Narrow> {
        let [h1, h0, l1, l0] = slot.to_be_bytes();
        let high = u16::from_be_bytes([h1, h0]);
        let is_last = self.highs.get(self.last) == Some(&high);
        if !is_last || self.names.get(self.last) == Some(&0) {
            self.last = self.page_of(high)?;
        }
        let names = self.names.get_mut(self.last)?;
        *names = names.saturating_add(1);
        Some(Narrow([u8::try_from(self.last).ok()?, l1, l0]))
    }

    /// Takes a name back.
    #[inline]
    pub(super) fn release(&mut self, narrow: Narrow) {
        if let Some(names) = self.names.get_mut(narrow.page()) {
            debug_assert!(*names > 0, "a name that was not taken");
            *names = names.saturating_sub(1);
        }
    }

    /// The slot that was named.
    #[inline]
    pub(super) fn slot(&self, narrow: Narrow) -> Option<u32> {
        let [h1, h0] = self.highs.get(narrow.page())?.to_be_bytes();
        let [_, l1, l0] = narrow.0;
        Some(u32::from_be_bytes([h1, h0, l1, l0]))
    }

    /// The page of a high half, or a free one made its own.
    #[cold]
    #[inline(never)]
    fn page_of(&mut self, high: u16) -> Option<usize> {
        let pages = || self.highs.iter().zip(&self.names);
        let found = pages().position(|(h, names)| *h == high && *names > 0);
        let page = found.or_else(|| pages().position(|(_, names)| *names == 0))?;
        *self.highs.get_mut(page)? = high;
        Some(page)
    }
}

#[cfg(test)]
impl Numbers {
    /// How many flows name a slot.
    pub(super) fn names(&self) -> u32 {
        self.names.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back_as_they_went_in() {
        let mut numbers = Numbers::new();
        for slot in [0, 7, 65_535, 65_536, 1 << 24, u32::MAX, u32::MAX - 1, 5] {
            let narrow = numbers.take(slot).unwrap();
            assert_ne!(narrow, Narrow::NONE);
            assert_eq!(numbers.slot(narrow), Some(slot));
        }
        assert_eq!(numbers.slot(Narrow::NONE), None);
        numbers.release(Narrow::NONE);
    }

    #[test]
    fn page_is_free_again_when_its_last_name_is_released() {
        let mut numbers = Numbers::new();
        let taken: Vec<Narrow> = (0..255)
            .map(|page| numbers.take(page << 16).unwrap())
            .collect();
        assert_eq!(numbers.take(255 << 16), None);
        assert!(numbers.take(3 << 16 | 9).is_some());
        numbers.release(taken[3]);
        assert_eq!(numbers.take(255 << 16), None, "another name is left");
        numbers.release(taken[4]);
        let narrow = numbers.take(255 << 16).unwrap();
        assert_eq!(numbers.slot(narrow), Some(255 << 16));
        assert_eq!(numbers.slot(taken[5]), Some(5 << 16));
    }
}
