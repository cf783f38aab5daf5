//! The policy in force and the one way to change it: compile → publish → wait until live.

use std::time::Duration;

use crate::clock::MonotonicClock;
use crate::compile::{CompileError, Compiler};
use crate::policy::Policy;
use crate::snapshot::{NotLive, Publisher, Snapshot};
use crate::sync::Arc;
use crate::types::Generation;

/// Why a checked policy did not come into force.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It exceeds a limit of the compiled form; the old policy stays in force.
    #[error("the policy cannot be compiled; the one in force stays")]
    Compile(#[from] CompileError),
    /// It is published, but some workers have not taken it up in time.
    #[error("generation {generation} is published, but {not_live} within {timeout:?}")]
    NotLive {
        /// The new generation.
        generation: Generation,
        /// Who does not use it.
        not_live: NotLive,
        /// How long was waited.
        timeout: Duration,
    },
}

/// The policy in force, and what changes it. One at a time: the controller locks it.
#[derive(Debug)]
pub struct PolicyState {
    policy: Policy,
    compiler: Compiler,
    publisher: Publisher,
    links: Vec<String>,
    compile_time: Duration,
}

impl PolicyState {
    /// Compiles the first policy. Whoever starts the workers gives the snapshot to a
    /// [`Publisher`] and that to [`PolicyState::new`].
    ///
    /// # Errors
    /// Where it exceeds a limit of the compiled form.
    pub fn compile_first(
        policy: &Policy,
        links: &[String],
        clock: &MonotonicClock,
    ) -> Result<(Compiler, Snapshot, Duration), CompileError> {
        let started = clock.now();
        let mut compiler = Compiler::new();
        let names: Vec<&str> = links.iter().map(String::as_str).collect();
        let snapshot = compiler.compile(policy, &names, Generation::default().next())?;
        Ok((compiler, snapshot, clock.now().since(started)))
    }

    /// The state once the first snapshot is published.
    #[must_use]
    pub fn new(
        policy: Policy,
        compiler: Compiler,
        publisher: Publisher,
        links: Vec<String>,
        compile_time: Duration,
    ) -> Self {
        Self {
            policy,
            compiler,
            publisher,
            links,
            compile_time,
        }
    }

    /// Puts a policy in force and waits until every worker uses it. The same content again keeps
    /// its generation.
    ///
    /// # Errors
    /// See [`PublishError`]; on `Compile` nothing has changed.
    pub fn apply(
        &mut self,
        policy: Policy,
        timeout: Duration,
        clock: &MonotonicClock,
    ) -> Result<Generation, PublishError> {
        if policy != self.policy {
            let started = clock.now();
            let generation = self.publisher.current().generation().next();
            let snapshot = self.compile(&policy, generation)?;
            self.compile_time = clock.now().since(started);
            self.publisher.publish(Arc::new(snapshot));
            self.policy = policy;
        }
        let generation = self.publisher.current().generation();
        let live = self.publisher.wait_live(timeout);
        self.publisher.retire();
        live.map_err(|not_live| PublishError::NotLive {
            generation,
            not_live,
            timeout,
        })?;
        Ok(generation)
    }

    /// Compiles a policy as if it came into force next, and publishes nothing.
    ///
    /// # Errors
    /// Where it exceeds a limit of the compiled form.
    pub fn try_compile(&self, policy: &Policy) -> Result<Snapshot, CompileError> {
        let generation = self.snapshot().generation().next();
        self.compiler
            .clone()
            .compile(policy, &self.link_names(), generation)
    }

    fn compile(
        &mut self,
        policy: &Policy,
        generation: Generation,
    ) -> Result<Snapshot, CompileError> {
        let names: Vec<&str> = self.links.iter().map(String::as_str).collect();
        self.compiler.compile(policy, &names, generation)
    }

    fn link_names(&self) -> Vec<&str> {
        self.links.iter().map(String::as_str).collect()
    }

    /// Frees what no worker uses any more, where an earlier attempt had to leave it.
    pub fn retire(&mut self) {
        self.publisher.retire();
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Its compiled form.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        self.publisher.current()
    }

    /// Who uses which generation.
    #[must_use]
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Names of the links, by [`crate::types::LinkId`].
    #[must_use]
    pub fn links(&self) -> &[String] {
        &self.links
    }

    /// How long the last compilation took.
    #[must_use]
    pub fn compile_time(&self) -> Duration {
        self.compile_time
    }
}
