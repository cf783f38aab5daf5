//! Circular lists through numbers of fixed range: each number is in one list at most. Adding at
//! the end, taking out and finding the first are a few words each, whatever the lists hold.

/// No number: the head of an empty list.
pub(super) const NOBODY: u32 = u32::MAX;

/// The links of all lists; whoever has a list keeps its head, the number that is longest in it.
#[derive(Debug)]
pub(super) struct Rings {
    links: Vec<Link>,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    before: u32,
    after: u32,
}

impl Rings {
    /// Lists of the numbers below `count`.
    pub(super) fn new(count: usize) -> Self {
        let alone = Link {
            before: NOBODY,
            after: NOBODY,
        };
        Self {
            links: vec![alone; count],
        }
    }

    /// Adds a number, which is in no list, as the last.
    pub(super) fn push(&mut self, head: &mut u32, number: u32) {
        let Some(first) = self.links.get(*head as usize).copied() else {
            self.set(number, number, number);
            *head = number;
            return;
        };
        self.set(number, first.before, *head);
        self.at(first.before, |last| last.after = number);
        self.at(*head, |first| first.before = number);
    }

    /// Takes a number out of the list that it is in.
    pub(super) fn remove(&mut self, head: &mut u32, number: u32) {
        let Some(Link { before, after }) = self.links.get(number as usize).copied() else {
            return;
        };
        if after == number {
            *head = NOBODY;
            return;
        }
        self.at(before, |link| link.after = after);
        self.at(after, |link| link.before = before);
        if *head == number {
            *head = after;
        }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of::<Link>().saturating_mul(self.links.capacity())
    }

    fn set(&mut self, number: u32, before: u32, after: u32) {
        self.at(number, |link| *link = Link { before, after });
    }

    fn at(&mut self, number: u32, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.links.get_mut(number as usize) {
            change(link);
        }
    }
}

#[cfg(test)]
impl Rings {
    /// The numbers of a list, the first one first.
    pub(super) fn all(&self, head: u32) -> Vec<u32> {
        let mut numbers = Vec::new();
        let mut at = head;
        while at != NOBODY && (numbers.is_empty() || at != head) {
            numbers.push(at);
            at = self.links[at as usize].after;
        }
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_queues_that_can_be_left() {
        let mut rings = Rings::new(40);
        let mut heads = [NOBODY; 3];
        let mut plain = [const { Vec::new() }; 3];
        let mut state = 7u64;
        for _ in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let number = u32::try_from((state >> 33) % 40).unwrap();
            let list = (state >> 20) as usize % 3;
            let held = plain.iter().position(|list| list.contains(&number));
            match held {
                Some(list) => {
                    rings.remove(&mut heads[list], number);
                    plain[list].retain(|other| *other != number);
                }
                None => {
                    rings.push(&mut heads[list], number);
                    plain[list].push(number);
                }
            }
            assert_eq!(heads.map(|head| rings.all(head)), plain);
        }
    }
}
