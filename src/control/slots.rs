//! Gives the slots of rules and interfaces that left the policy to others, once nobody holds them.
//!
//! Who may hold the slot of a rule or an interface that the policy has had no more since some
//! generation *g*, and how it is known that nobody does:
//!
//! - A snapshot before *g*: the one of a worker, or of whoever lists flows. None is left once
//!   the publisher and every other owner have dropped them.
//! - Flows, expired ones too, that the rule admitted or the interface had. Every worker goes
//!   through its table after it has begun to use *g* or later, and tells which slots are named
//!   (`worker::Census`).
//! - What an interface has used up of its rate of new flows: for a second after that at most.
//!
//! No holder can come back: a flow is named by its worker's snapshot, and no snapshot from *g* on
//! has the slot until it is given away here. So what is known once stays true, and the holders may
//! be asked one after the other. A slot that flows still name simply waits for the next census.
//!
//! What is asked for is asked after changes only, and nobody waits for the answers: the change
//! after them takes them up. Without a change no slot is needed.

use std::time::Duration;

use crossbeam::channel::{Receiver, TryRecvError, bounded};

use crate::clock::Tick;
use crate::compile::{Compiler, LeftSlots};
use crate::conntrack::HeldSlots;
use crate::types::{Generation, WorkerId};
use crate::worker::{Census, WorkerCommand};

/// Slots that have left, beside those that were found held, before the workers are asked: a few
/// hundred kilobytes of names, and a walk through the tables once in seconds at thousands of
/// changes a second.
const LEFT_MIN: usize = 1 << 14;
/// How long an interface without flows may be held to what it opened (`conntrack`'s shares).
const SHARE_MEMORY: Duration = Duration::from_secs(1);

/// Gives a worker a request; what cannot be given comes back.
pub(super) type Ask<'a> = dyn FnMut(WorkerId, WorkerCommand) -> Result<(), WorkerCommand> + 'a;

/// How it stands with the slots that left.
#[derive(Debug)]
pub(super) struct SlotReturns {
    left_min: usize,
    /// Slots that left and were found held last.
    held: usize,
    asked: Option<Asked>,
}

/// The workers were asked.
#[derive(Debug)]
struct Asked {
    /// About the slots that left in this generation and before.
    generation: Generation,
    answers: Vec<Answer>,
}

#[derive(Debug)]
enum Answer {
    Awaited(Receiver<Box<Census>>),
    Given(Box<Census>),
}

/// The generations that matter.
#[derive(Clone, Copy, Debug)]
pub(super) struct InUse {
    /// In force.
    pub(super) current: Generation,
    /// Of the oldest snapshot that anybody has.
    pub(super) oldest: Generation,
}

impl Default for SlotReturns {
    fn default() -> Self {
        Self::new(LEFT_MIN)
    }
}

impl SlotReturns {
    /// One that asks when so many slots have left.
    pub(super) fn new(left_min: usize) -> Self {
        Self {
            left_min,
            held: 0,
            asked: None,
        }
    }

    /// Does what can be done now. The slots that nobody holds are shown to `vacated` and then
    /// given back: from here on until the next policy is compiled nothing has them, no worker
    /// touches what it keeps by them, and whatever is kept by slot can begin anew.
    pub(super) fn step(
        &mut self,
        compiler: &mut Compiler,
        workers: u16,
        in_use: InUse,
        now: Tick,
        ask: &mut Ask<'_>,
        vacated: &mut dyn FnMut(&LeftSlots),
    ) {
        match self.asked.take() {
            Some(asked) => self.take_up(asked, compiler, in_use, now, vacated),
            None if compiler.left_count() >= self.held.saturating_add(self.left_min) => {
                self.asked = Asked::begin(compiler, workers, in_use.current, ask);
            }
            None => {}
        }
    }

    fn take_up(
        &mut self,
        mut asked: Asked,
        compiler: &mut Compiler,
        in_use: InUse,
        now: Tick,
        vacated: &mut dyn FnMut(&LeftSlots),
    ) {
        let Some(is_complete) = asked.receive() else {
            // A worker has ended: it is asked again, or there is none.
            return;
        };
        let is_old = |at: Tick| now.since(at) >= SHARE_MEMORY;
        let found = || asked.found();
        if !is_complete
            || in_use.oldest < asked.generation
            || !found().all(|(_, finished)| is_old(finished))
        {
            self.asked = Some(asked);
            return;
        }
        let mut free = compiler.left_slots(asked.generation);
        let is_free = |has: &dyn Fn(&HeldSlots) -> bool| !found().any(|(held, _)| has(held));
        free.rules
            .retain(|slot| is_free(&|held| held.has_rule(*slot)));
        free.interfaces
            .retain(|slot| is_free(&|held| held.has_interface(*slot)));
        if free != LeftSlots::default() {
            vacated(&free);
            compiler.release(&free);
        }
        self.held = compiler.left_count();
    }
}

impl Asked {
    /// Asks all workers; `None` where one cannot be asked now.
    fn begin(
        compiler: &Compiler,
        workers: u16,
        generation: Generation,
        ask: &mut Ask<'_>,
    ) -> Option<Self> {
        let (rules, interfaces) = compiler.slot_limits();
        let mut answers = Vec::new();
        for worker in (0..workers).map(WorkerId) {
            let held = HeldSlots::new(rules, interfaces);
            let census = Box::new(Census::new(generation, held));
            let (reply, answer) = bounded(1);
            ask(worker, WorkerCommand::Census(census, reply)).ok()?;
            answers.push(Answer::Awaited(answer));
        }
        Some(Self {
            generation,
            answers,
        })
    }

    /// Takes what was answered; whether that is all, or `None` where one will never be.
    fn receive(&mut self) -> Option<bool> {
        let mut is_complete = true;
        for answer in &mut self.answers {
            if let Answer::Awaited(receiver) = answer {
                match receiver.try_recv() {
                    Ok(census) => *answer = Answer::Given(census),
                    Err(TryRecvError::Empty) => is_complete = false,
                    Err(TryRecvError::Disconnected) => return None,
                }
            }
        }
        Some(is_complete)
    }

    fn found(&self) -> impl Iterator<Item = (&HeldSlots, Tick)> {
        self.answers.iter().filter_map(|answer| match answer {
            Answer::Given(census) => census.found(),
            Answer::Awaited(_) => None,
        })
    }
}

#[cfg(test)]
mod tests;
