//! Sequences of operations as text: what the random test leaves of a failure in
//! tests/regressions/conntrack, and what it runs again from there.
//!
//! ```text
//! # why it is here
//! shard 24 flows, 0 each, 0 each second, pickup rules, lenient, established 350 s, from 17 ns
//! packet 3 original allowed tcp S seq 7 ack 0 window 1000 scale 7 payload 0
//! packet 3 reply allowed piece
//! packet 6 original denied udp
//! packet 8 original allowed icmp 9
//! wait 31000 ms 5 ns
//! end 3
//! restamp 3 untracked rule 12
//! expire
//! scan
//! ```

use std::fmt;
use std::str::{FromStr, SplitWhitespace};

use super::*;
use crate::types::regressions::Regression;

/// What a packet is, beside its addresses and ports.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said {
    /// A TCP segment; its ports are those of its flow.
    Segment(TcpHeader),
    /// A piece of a datagram whose header is told from its first piece.
    Piece,
    Udp,
    /// A query or its reply, with its code.
    Icmp(u8),
    Other,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Packet {
        flow: u64,
        is_reply: bool,
        /// What the rules would say.
        is_allowed: bool,
        said: Said,
    },
    Wait(Duration),
    End {
        flow: u64,
    },
    Restamp {
        flow: u64,
        class: FlowClass,
        rule: Option<u32>,
    },
    Expire,
    Scan,
}

/// A shard, and what is done with it.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub(super) config: ShardConfig,
    pub(super) start: Tick,
    pub(super) steps: Vec<Step>,
}

/// Letters of TCP's flags from the lowest bit.
const FLAGS: &str = "FSRPAUEC";

impl Regression for Sequence {
    const FOLDER: &str = "conntrack";
    type Step = Step;

    fn steps(&self) -> &[Step] {
        &self.steps
    }

    fn with(&self, steps: &[Step]) -> Self {
        Self {
            steps: steps.to_vec(),
            ..*self
        }
    }

    fn replay(&self) {
        super::random::replay(self);
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.config;
        let PerInterface {
            max_flows,
            new_per_second,
        } = config.per_interface;
        let pickup = match config.tcp_pickup {
            TcpPickup::Rules => "rules",
            TcpPickup::SynOnly => "syn-only",
        };
        let strict = if config.tcp_strict {
            "strict"
        } else {
            "lenient"
        };
        let established = config.timeouts.tcp_established.as_secs();
        writeln!(
            f,
            "shard {} flows, {max_flows} each, {new_per_second} each second, pickup {pickup}, \
             {strict}, established {established} s, from {} ns",
            config.max_flows, self.start.0
        )?;
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packet {
                flow,
                is_reply,
                is_allowed,
                said,
            } => {
                let side = if *is_reply { "reply" } else { "original" };
                let rules = if *is_allowed { "allowed" } else { "denied" };
                write!(f, "packet {flow} {side} {rules} {said}")
            }
            Self::Wait(by) => {
                write!(
                    f,
                    "wait {} ms {} ns",
                    by.as_millis(),
                    by.subsec_nanos() % 1_000_000
                )
            }
            Self::End { flow } => write!(f, "end {flow}"),
            Self::Restamp { flow, class, rule } => {
                write!(f, "restamp {flow} {}", class.name())?;
                rule.map_or(Ok(()), |rule| write!(f, " rule {rule}"))
            }
            Self::Expire => f.write_str("expire"),
            Self::Scan => f.write_str("scan"),
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(s) => {
                let is_set = |at: usize| s.flags.0 & (1 << at) != 0;
                let letters = FLAGS.chars().enumerate().filter(|(at, _)| is_set(*at));
                let flags: String = letters.map(|(_, letter)| letter).collect();
                let flags = if flags.is_empty() { "-" } else { &flags };
                write!(f, "tcp {flags} seq {} ack {}", s.sequence, s.acknowledgment)?;
                write!(f, " window {} payload {}", s.window, s.payload_len)?;
                s.window_scale
                    .map_or(Ok(()), |scale| write!(f, " scale {scale}"))
            }
            Self::Piece => f.write_str("piece"),
            Self::Udp => f.write_str("udp"),
            Self::Icmp(code) => write!(f, "icmp {code}"),
            Self::Other => f.write_str("other"),
        }
    }
}

/// The words of a line, or the line that cannot be read.
struct Words<'a> {
    line: &'a str,
    left: SplitWhitespace<'a>,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        let left = line.split_whitespace();
        Self { line, left }
    }

    fn wrong<T>(&self) -> Result<T, String> {
        Err(format!("cannot read {:?}", self.line))
    }

    fn word(&mut self) -> Result<&'a str, String> {
        let word = self.left.next().map(|word| word.trim_end_matches(','));
        word.map_or_else(|| self.wrong(), Ok)
    }

    fn number<T: FromStr>(&mut self) -> Result<T, String> {
        let word = self.word()?;
        word.parse().or_else(|_| self.wrong())
    }

    /// The number after a word that has to be there.
    fn after<T: FromStr>(&mut self, word: &str) -> Result<T, String> {
        match self.word()? == word {
            true => self.number(),
            false => self.wrong(),
        }
    }

    /// The same where the line may be at its end.
    fn maybe_after<T: FromStr>(&mut self, word: &str) -> Result<Option<T>, String> {
        let mut ahead = self.left.clone();
        match ahead.next() {
            None => Ok(None),
            Some(_) => self.after(word).map(Some),
        }
    }

    fn either(&mut self, is: &str, is_not: &str) -> Result<bool, String> {
        match self.word()? {
            word if word == is => Ok(true),
            word if word == is_not => Ok(false),
            _ => self.wrong(),
        }
    }

    fn end(&mut self) -> Result<(), String> {
        match self.left.next() {
            None => Ok(()),
            Some(_) => self.wrong(),
        }
    }
}

impl FromStr for Sequence {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_said = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
        let mut lines = text.lines().filter(is_said);
        let mut words = Words::of(lines.next().unwrap_or_default());
        let mut config = config(words.after("shard")?);
        words.word()?;
        config.per_interface.max_flows = words.number()?;
        words.word()?;
        config.per_interface.new_per_second = words.number()?;
        for _ in ["each", "second", "pickup"] {
            words.word()?;
        }
        config.tcp_pickup = match words.either("rules", "syn-only")? {
            true => TcpPickup::Rules,
            false => TcpPickup::SynOnly,
        };
        config.tcp_strict = words.either("strict", "lenient")?;
        config.timeouts.tcp_established = Duration::from_secs(words.after("established")?);
        words.word()?;
        let start = Tick(words.after("from")?);
        Ok(Self {
            config,
            start,
            steps: lines.map(str::parse).collect::<Result<_, _>>()?,
        })
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = Words::of(line);
        let step = match words.word()? {
            "packet" => Self::Packet {
                flow: words.number()?,
                is_reply: words.either("reply", "original")?,
                is_allowed: words.either("allowed", "denied")?,
                said: said(&mut words)?,
            },
            "wait" => {
                let milliseconds = Duration::from_millis(words.number()?);
                words.word()?;
                let rest = Duration::from_nanos(words.number()?);
                words.word()?;
                Self::Wait(milliseconds + rest)
            }
            "end" => Self::End {
                flow: words.number()?,
            },
            "restamp" => Self::Restamp {
                flow: words.number()?,
                class: match words.either("tracked", "untracked")? {
                    true => FlowClass::Tracked,
                    false => FlowClass::Untracked,
                },
                rule: words.maybe_after("rule")?,
            },
            "expire" => Self::Expire,
            "scan" => Self::Scan,
            _ => return words.wrong(),
        };
        words.end()?;
        Ok(step)
    }
}

fn said(words: &mut Words<'_>) -> Result<Said, String> {
    Ok(match words.word()? {
        "tcp" => {
            let letters = words.word()?;
            let bit = |letter| FLAGS.find(letter).map(|at| 1_u8 << at);
            let bits: Option<Vec<u8>> = letters.chars().filter(|c| *c != '-').map(bit).collect();
            let Some(bits) = bits else {
                return words.wrong();
            };
            Said::Segment(TcpHeader {
                sequence: words.after("seq")?,
                acknowledgment: words.after("ack")?,
                window: words.after("window")?,
                payload_len: words.after("payload")?,
                window_scale: words.maybe_after("scale")?,
                ..segment(bits.iter().sum(), 0, 0)
            })
        }
        "piece" => Said::Piece,
        "udp" => Said::Udp,
        "icmp" => Said::Icmp(words.number()?),
        "other" => Said::Other,
        _ => return words.wrong(),
    })
}
