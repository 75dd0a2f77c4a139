//! What every call meets: thrown with dice, or written down beforehand.

use std::collections::BTreeMap;

/// What a call meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Luck {
    Good,
    /// It answers no. A `before` may have had its effect all the same.
    Fails,
    NotStarted,
    /// It happens, but the answer is lost.
    LostAfter,
    LostBefore,
    /// It never answers.
    Hangs,
    /// It is ended at its timeout, with all that it started.
    TimesOut,
    /// It goes on after its timeout, and its effect comes later, unless somebody ends it.
    RunsOn,
    /// The pod is replaced, now and for all later calls.
    PodGone,
}

impl Luck {
    pub(super) const BAD: [Self; 8] = [
        Self::Fails,
        Self::NotStarted,
        Self::LostAfter,
        Self::LostBefore,
        Self::Hangs,
        Self::TimesOut,
        Self::RunsOn,
        Self::PodGone,
    ];
}

/// What a write of the journal meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteLuck {
    Good,
    Fails,
    /// The process dies when it is written.
    DiesAfter,
    /// The process dies and nothing was written.
    DiesBefore,
}

/// Decides.
pub(super) trait Fate: Send {
    /// For a call, by its number from 0 and what it does.
    fn luck(&mut self, number: usize, effect: &str) -> Luck;
    /// For a write, by its number from 0.
    fn write(&mut self, number: usize) -> WriteLuck;
    /// How long a command takes, in milliseconds.
    fn takes_ms(&mut self) -> u64 {
        10
    }
}

/// Numbers that only depend on the seed (xorshift).
#[derive(Clone)]
pub(super) struct Dice {
    now: u64,
    writes_left: u64,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Self { now: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, writes_left: u64::MAX };
        for _ in 0..8 {
            dice.roll(2);
        }
        if dice.one_in(2) {
            dice.writes_left = dice.roll(14);
        }
        dice
    }

    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.now ^= self.now << 13;
        self.now ^= self.now >> 7;
        self.now ^= self.now << 17;
        self.now % sides
    }

    pub(super) fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

impl Fate for Dice {
    fn luck(&mut self, _: usize, _: &str) -> Luck {
        let thrown = self.roll(60);
        usize::try_from(thrown).ok().and_then(|n| Luck::BAD.get(n).copied()).unwrap_or(Luck::Good)
    }

    fn write(&mut self, _: usize) -> WriteLuck {
        if self.one_in(40) {
            return WriteLuck::Fails;
        }
        if self.writes_left == 0 {
            return if self.one_in(2) { WriteLuck::DiesAfter } else { WriteLuck::DiesBefore };
        }
        self.writes_left = self.writes_left.saturating_sub(u64::from(self.writes_left != u64::MAX));
        WriteLuck::Good
    }

    fn takes_ms(&mut self) -> u64 {
        1 + self.roll(30)
    }
}

/// Calls and writes by their numbers; all others are lucky.
#[derive(Debug, Clone, Default)]
pub(super) struct Script {
    pub(super) calls: BTreeMap<usize, Luck>,
    pub(super) writes: BTreeMap<usize, WriteLuck>,
}

impl Script {
    pub(super) fn call(number: usize, luck: Luck) -> Self {
        Self { calls: BTreeMap::from([(number, luck)]), ..Self::default() }
    }

    pub(super) fn write(number: usize, luck: WriteLuck) -> Self {
        Self { writes: BTreeMap::from([(number, luck)]), ..Self::default() }
    }
}

impl Fate for Script {
    fn luck(&mut self, number: usize, _: &str) -> Luck {
        self.calls.get(&number).copied().unwrap_or(Luck::Good)
    }

    fn write(&mut self, number: usize) -> WriteLuck {
        self.writes.get(&number).copied().unwrap_or(WriteLuck::Good)
    }
}
