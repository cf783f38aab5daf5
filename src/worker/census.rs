//! Tells the control side which slots of rules and interfaces the flows of a worker name, so that
//! those which left the policy can be given to others.
//!
//! An entry gets the name of a rule or an interface from the snapshot that it is judged by, or
//! keeps the one that it has. So what a snapshot and all later ones do not have comes into no entry
//! once the worker uses that snapshot: an entry that was looked at since and does not name it never
//! will. One walk through the table, however slow, thus finds all that still do. (The control side
//! gives no slot to anybody before it has heard from every worker.)

use crossbeam::channel::Sender;

use crate::clock::Tick;
use crate::conntrack::{HeldSlots, Shard};
use crate::types::Generation;

/// Table slots that one turn looks at, at most: about as much work as a burst.
const SLOTS_PER_TURN_MAX: u32 = 128;

/// What the flows of a worker name.
#[derive(Debug)]
pub struct Census {
    /// It begins once the worker uses this generation, or a later one.
    generation: Generation,
    held: HeldSlots,
    cursor: u32,
    finished: Option<Tick>,
}

impl Census {
    /// One that was not begun, with room for what it finds.
    #[must_use]
    pub fn new(generation: Generation, held: HeldSlots) -> Self {
        Self {
            generation,
            held,
            cursor: 0,
            finished: None,
        }
    }

    /// What was found, and when that was complete, which it is in an answer.
    #[must_use]
    pub fn found(&self) -> Option<(&HeldSlots, Tick)> {
        Some((&self.held, self.finished?))
    }

    /// Looks at some slots of the table, if the worker uses a generation that is late enough;
    /// whether it did.
    pub fn go_on(&mut self, shard: &Shard, used: Generation, now: Tick) -> bool {
        if used < self.generation || self.finished.is_some() {
            return false;
        }
        match shard.mark_held(self.cursor, SLOTS_PER_TURN_MAX, &mut self.held) {
            Some(next) => self.cursor = next,
            None => self.finished = Some(now),
        }
        true
    }
}

/// The census that a worker is at, if any.
#[derive(Debug, Default)]
pub(super) struct CensusTask {
    asked: Option<(Box<Census>, Sender<Box<Census>>)>,
}

impl CensusTask {
    /// Begins another one. Whoever waits for the one before is told by its end of the channel.
    pub(super) fn begin(&mut self, census: Box<Census>, reply: Sender<Box<Census>>) {
        self.asked = Some((census, reply));
    }

    /// Goes on with it, and answers at its end; whether there was anything to do.
    #[inline]
    pub(super) fn step(&mut self, shard: &Shard, used: Generation, now: Tick) -> bool {
        match &mut self.asked {
            None => false,
            Some((census, _)) => {
                let worked = census.go_on(shard, used, now);
                if census.finished.is_some() {
                    self.answer();
                }
                worked
            }
        }
    }

    #[cold]
    fn answer(&mut self) {
        if let Some((census, reply)) = self.asked.take() {
            // Whoever asked has gone: it is dropped here, once for a request.
            let _gone = reply.try_send(census);
        }
    }
}
