//! A vector in pages that snapshots share: a change of one place copies its page only.

use crate::sync::Arc;

/// Places of one page.
const PAGE: usize = 128;

/// Values by number. A clone shares all pages.
#[derive(Clone, Debug)]
pub(crate) struct Paged<T> {
    pages: Arc<[Arc<[T]>]>,
}

impl<T: Clone> Default for Paged<T> {
    fn default() -> Self {
        Self {
            pages: Arc::from([]),
        }
    }
}

impl<T> Paged<T> {
    /// The value at a place that was set, or filled up.
    #[inline]
    pub(crate) fn get(&self, place: usize) -> Option<&T> {
        let [page, inside] = [place / PAGE, place % PAGE];
        self.pages.get(page)?.get(inside)
    }

    /// All values, with those that filled the last page up.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flat_map(|page| page.iter())
    }

    /// Bytes on the heap, what the values own not counted.
    pub(crate) fn bytes(&self) -> usize {
        let page = PAGE
            .saturating_mul(size_of::<T>())
            .saturating_add(size_of::<Arc<[T]>>());
        self.pages.len().saturating_mul(page)
    }
}

impl<T: Clone> Paged<T> {
    /// Sets the value at a place; places before it that were never set are `fill`.
    pub(crate) fn set(&mut self, place: usize, value: T, fill: &T) {
        let [page, inside] = [place / PAGE, place % PAGE];
        if page >= self.pages.len() {
            let more = page.saturating_add(1).saturating_sub(self.pages.len());
            // At least half as many again, so that growing costs a constant a value.
            let more = more.max(self.pages.len() / 2);
            let fresh = (0..more).map(|_| vec![fill.clone(); PAGE].into());
            self.pages = self.pages.iter().cloned().chain(fresh).collect();
        }
        if let Some(page) = Arc::make_mut(&mut self.pages).get_mut(page)
            && let Some(found) = Arc::make_mut(page).get_mut(inside)
        {
            *found = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_what_it_had_and_shares_the_other_pages() {
        let mut values = Paged::default();
        for place in 0..1000 {
            values.set(place, place, &usize::MAX);
        }
        let before = values.clone();
        values.set(500, 7, &usize::MAX);
        assert_eq!((before.get(500), values.get(500)), (Some(&500), Some(&7)));
        let shared = before.pages.iter().zip(&*values.pages);
        let copied = shared.filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        assert_eq!(copied, 1);
        assert_eq!(values.get(1_000_000), None);
    }

    #[test]
    fn places_that_were_not_set_are_filled() {
        let mut values = Paged::default();
        values.set(300, 1, &9);
        assert_eq!(values.get(299), Some(&9));
        assert_eq!(values.get(300), Some(&1));
        assert_eq!(values.iter().filter(|value| **value == 1).count(), 1);
    }
}
