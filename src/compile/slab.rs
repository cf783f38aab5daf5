//! Things by small numbers, which are used again when a thing is gone.

/// Things by number.
#[derive(Clone, Debug)]
pub(super) struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    /// Takes a thing in and returns its number.
    pub(super) fn insert(&mut self, thing: T) -> u32 {
        if let Some(number) = self.free.pop() {
            self.places[number as usize] = Some(thing);
            return number;
        }
        self.places.push(Some(thing));
        // Groups, lists and what is made of them: each takes dozens of bytes.
        u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
    }

    /// Takes a thing out.
    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let thing = self.places.get_mut(number as usize)?.take();
        if thing.is_some() {
            self.free.push(number);
        }
        thing
    }

    /// A thing that is there, or not any more.
    pub(super) fn find(&self, number: u32) -> Option<&T> {
        self.places.get(number as usize)?.as_ref()
    }

    /// A thing that is there.
    ///
    /// # Panics
    /// If it is not.
    #[expect(clippy::expect_used, reason = "a number without its thing is our bug")]
    pub(super) fn at(&self, number: u32) -> &T {
        self.find(number)
            .expect("numbers are of things that are there")
    }

    /// A thing that is there, to be changed.
    ///
    /// # Panics
    /// If it is not.
    #[expect(clippy::expect_used, reason = "a number without its thing is our bug")]
    pub(super) fn at_mut(&mut self, number: u32) -> &mut T {
        let place = self.places.get_mut(number as usize);
        let thing = place.and_then(Option::as_mut);
        thing.expect("numbers are of things that are there")
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}
