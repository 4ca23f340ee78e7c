//! How much a key may ask for and spend, and how much of that is left: counts in time that the caller tells, without a clock.
//!
//! Requests come out of a bucket that holds a minute's and fills evenly. Tokens count by days of UTC: what a request may take at most is
//! promised to it when it begins, and what it did not take comes back, so a day's tokens are never exceeded.

use crate::inference::payment::Unpayable;
use ailo_protocol::Amount;
use serde::{Deserialize, Serialize};
use std::num::{NonZeroU32, NonZeroU64};

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 86_400_000;

/// What a key may ask for; none: whatever the node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<NonZeroU32>,
    /// Tokens a day, read and written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_day: Option<NonZeroU64>,
    /// Texts at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<NonZeroU32>,
    /// What texts may cost a day; none: what the node may spend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alc_per_day: Option<Amount>,
}

/// Why a request is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Beyond {
    /// Too many requests in a minute; one is taken again after so many milliseconds.
    #[error("this key may send {limit} requests a minute: wait as long as Retry-After says")]
    Requests { limit: u32, wait_ms: u64 },
    /// The day's tokens don't suffice.
    #[error(
        "this asks for up to {asked} tokens, and {left} of the {limit} that this key has a day are left: ask for fewer with max_tokens, or wait for the next day (UTC)"
    )]
    Tokens { limit: u64, left: u64, asked: u64, wait_ms: u64 },
    /// As many texts are being written as may be.
    #[error("this key may have {limit} texts written at once, and they are: wait for one to end")]
    Texts { limit: u32 },
    /// No wait helps.
    #[error("this asks for {asked} {what}, and this key has {limit}: ask for less")]
    Ever { what: &'static str, limit: u64, asked: u64 },
}

/// What is left of one limit, and when all of it is there again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub limit: u64,
    pub left: u64,
    pub reset_ms: u64,
}

/// What a key has asked for.
#[derive(Debug)]
pub(super) struct Meter {
    limits: Limits,
    /// Milliseconds since 1970 when the bucket was looked at last.
    at: u64,
    /// The latest day since 1970 that was seen.
    day: u64,
    /// Requests that may come at once, in parts of [`MINUTE_MS`].
    bucket: u64,
    /// Tokens of the day that were used, and those promised to texts under way.
    used: u64,
    promised: u64,
    /// Texts under way.
    writing: u32,
    /// What texts have cost in the day.
    spent: Amount,
}

impl Meter {
    /// Nothing was asked for yet.
    pub fn new(limits: Limits, now: u64) -> Meter {
        let (bucket, day) = (full(&limits), now / DAY_MS);
        Meter { limits, at: now, day, bucket, used: 0, promised: 0, writing: 0, spent: Amount::ZERO }
    }

    /// Other limits from now on.
    pub fn limit(&mut self, limits: Limits) {
        if self.limits.requests_per_minute != limits.requests_per_minute {
            self.bucket = full(&limits);
        }
        self.limits = limits;
    }

    /// Takes one request.
    pub fn request(&mut self, now: u64) -> Result<(), Beyond> {
        self.pass(now);
        let Some(limit) = self.limits.requests_per_minute.map(NonZeroU32::get) else { return Ok(()) };
        let Some(rest) = self.bucket.checked_sub(MINUTE_MS) else {
            return Err(Beyond::Requests { limit, wait_ms: (MINUTE_MS - self.bucket).div_ceil(u64::from(limit)) });
        };
        self.bucket = rest;
        Ok(())
    }

    /// Begins texts that take so many tokens at most.
    pub fn begin(&mut self, now: u64, texts: u32, tokens: u64) -> Result<(), Beyond> {
        self.pass(now);
        if let Some(limit) = self.limits.concurrent.map(NonZeroU32::get) {
            if texts > limit {
                return Err(Beyond::Ever { what: "texts at once", limit: limit.into(), asked: texts.into() });
            }
            if texts > limit.saturating_sub(self.writing) {
                return Err(Beyond::Texts { limit });
            }
        }
        if let Some(limit) = self.limits.tokens_per_day.map(NonZeroU64::get) {
            if tokens > limit {
                return Err(Beyond::Ever { what: "tokens at most", limit, asked: tokens });
            }
            let left = self.tokens(limit);
            if tokens > left {
                return Err(Beyond::Tokens { limit, left, asked: tokens, wait_ms: DAY_MS - now % DAY_MS });
            }
        }
        self.writing = self.writing.saturating_add(texts);
        self.promised = self.promised.saturating_add(tokens);
        Ok(())
    }

    /// Ends what was begun, of which so many tokens were used.
    pub fn end(&mut self, now: u64, texts: u32, tokens: u64, used: u64) {
        self.pass(now);
        self.writing = self.writing.saturating_sub(texts);
        self.promised = self.promised.saturating_sub(tokens);
        self.used = self.used.saturating_add(used);
    }

    /// Pays for a text.
    pub fn spend(&mut self, now: u64, cost: Amount) -> Result<(), Unpayable> {
        self.pass(now);
        let (spent, all) = (self.spent, Amount(self.spent.0.saturating_add(cost.0)));
        if let Some(limit) = self.limits.alc_per_day.filter(|limit| all > *limit) {
            return Err(Unpayable::Key { spent, limit, asked: cost });
        }
        self.spent = all;
        Ok(())
    }

    /// What is left of requests and of tokens.
    pub fn left(&mut self, now: u64) -> (Option<Left>, Option<Left>) {
        self.pass(now);
        let requests = self.limits.requests_per_minute.map(|limit| Left {
            limit: limit.get().into(),
            left: self.bucket / MINUTE_MS,
            reset_ms: (full(&self.limits) - self.bucket).div_ceil(limit.get().into()),
        });
        let tokens = self.limits.tokens_per_day.map(|limit| Left {
            limit: limit.get(),
            left: self.tokens(limit.get()),
            reset_ms: DAY_MS - now % DAY_MS,
        });
        (requests, tokens)
    }

    fn tokens(&self, limit: u64) -> u64 {
        limit.saturating_sub(self.used).saturating_sub(self.promised)
    }

    /// Time passes: the bucket fills, and a new day begins. A clock that goes back gives nothing and takes nothing.
    fn pass(&mut self, now: u64) {
        let rate = self.limits.requests_per_minute.map_or(0, |limit| limit.get().into());
        let more = now.saturating_sub(self.at).min(MINUTE_MS) * rate;
        self.bucket = (self.bucket + more).min(full(&self.limits));
        if now / DAY_MS > self.day {
            (self.day, self.used, self.spent) = (now / DAY_MS, 0, Amount::ZERO);
        }
        self.at = now;
    }
}

/// A full bucket.
fn full(limits: &Limits) -> u64 {
    limits.requests_per_minute.map_or(0, |limit| u64::from(limit.get()) * MINUTE_MS)
}

/// Whole seconds, after which it surely works.
pub(super) fn seconds(ms: u64) -> u64 {
    ms.div_ceil(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(requests: u32, tokens: u64, texts: u32) -> Limits {
        Limits {
            requests_per_minute: NonZeroU32::new(requests),
            tokens_per_day: NonZeroU64::new(tokens),
            concurrent: NonZeroU32::new(texts),
            alc_per_day: None,
        }
    }

    #[test]
    fn a_minutes_requests_come_at_once_and_then_evenly() {
        let mut meter = Meter::new(limits(6, 0, 0), 1_000);
        assert_eq!((0..10).filter(|_| meter.request(1_000).is_ok()).count(), 6);
        assert_eq!(meter.request(1_000), Err(Beyond::Requests { limit: 6, wait_ms: 10_000 }));
        assert_eq!(meter.request(10_999), Err(Beyond::Requests { limit: 6, wait_ms: 1 }));
        assert_eq!(meter.request(11_000), Ok(()));
        assert_eq!(meter.left(31_000).0, Some(Left { limit: 6, left: 2, reset_ms: 40_000 }));
        // However long nothing comes, no more than a minute's are there.
        assert_eq!((0..10).filter(|_| meter.request(9_000_000).is_ok()).count(), 6);
    }

    #[test]
    fn whoever_waits_as_long_as_told_is_taken() {
        for limit in [1, 7, 59, 60, 61, 1_000, 70_000, u32::MAX] {
            let (mut meter, mut now) = (Meter::new(limits(limit, 0, 0), 5), 5);
            meter.bucket = 0;
            for _ in 0..100 {
                let Err(Beyond::Requests { wait_ms, .. }) = meter.request(now) else { continue };
                assert!(meter.request(now + wait_ms - 1).is_err(), "{limit}: not earlier");
                now += wait_ms;
                assert_eq!(meter.request(now), Ok(()), "{limit}");
            }
        }
    }

    #[test]
    fn a_days_tokens_are_never_exceeded_and_what_was_not_used_comes_back() {
        let mut meter = Meter::new(limits(0, 100, 0), 0);
        assert_eq!(meter.begin(0, 1, 60), Ok(()));
        let refused = Beyond::Tokens { limit: 100, left: 40, asked: 60, wait_ms: DAY_MS - 5 };
        assert_eq!(meter.begin(5, 1, 60), Err(refused));
        meter.end(5, 1, 60, 10);
        assert_eq!(meter.left(5).1, Some(Left { limit: 100, left: 90, reset_ms: DAY_MS - 5 }));
        assert_eq!(meter.begin(5, 1, 90), Ok(()));
        // What began yesterday counts for the day that it ends in, promised and used.
        assert_eq!(meter.left(DAY_MS).1.map(|left| left.left), Some(10));
        meter.end(DAY_MS, 1, 90, 30);
        assert_eq!(meter.left(DAY_MS).1.map(|left| left.left), Some(70));
        assert!(matches!(meter.begin(0, 1, 101), Err(Beyond::Ever { .. })));
    }

    #[test]
    fn texts_at_once_are_counted_until_they_end() {
        let mut meter = Meter::new(limits(0, 0, 3), 0);
        assert_eq!(meter.begin(0, 2, 9), Ok(()));
        assert_eq!(meter.begin(0, 2, 9), Err(Beyond::Texts { limit: 3 }));
        assert_eq!(meter.begin(0, 1, 9), Ok(()));
        meter.end(0, 2, 9, 0);
        assert_eq!(meter.begin(0, 2, 9), Ok(()));
        assert!(matches!(meter.begin(0, 4, 9), Err(Beyond::Ever { .. })));
    }

    #[test]
    fn a_days_money_is_never_exceeded() {
        let all = Limits { alc_per_day: Some(Amount(100)), ..Limits::default() };
        let mut meter = Meter::new(all, 5);
        assert_eq!((meter.spend(5, Amount(60)), meter.spend(6, Amount(40))), (Ok(()), Ok(())));
        let refused = Unpayable::Key { spent: Amount(100), limit: Amount(100), asked: Amount(1) };
        assert_eq!((meter.spend(7, Amount(1)), meter.spend(8, Amount::ZERO)), (Err(refused), Ok(())));
        assert_eq!(meter.spend(DAY_MS, Amount(100)), Ok(()));
        assert!(meter.spend(DAY_MS - 1, Amount(1)).is_err(), "a clock that goes back gives nothing away");
        meter.limit(Limits { alc_per_day: None, ..all });
        assert_eq!(meter.spend(DAY_MS, Amount(u64::MAX)), Ok(()));
    }

    #[test]
    fn a_clock_that_goes_back_locks_nobody_out_and_gives_nothing_away() {
        let mut meter = Meter::new(limits(1, 10, 0), 10 * DAY_MS);
        assert_eq!((meter.request(10 * DAY_MS), meter.begin(10 * DAY_MS, 1, 10)), (Ok(()), Ok(())));
        meter.end(10 * DAY_MS, 1, 10, 10);
        let back = 9 * DAY_MS;
        assert!(meter.request(back).is_err() && meter.begin(back, 1, 1).is_err());
        assert_eq!(meter.request(back + MINUTE_MS), Ok(()));
    }

    #[test]
    fn without_limits_all_is_taken() {
        let mut meter = Meter::new(Limits::default(), 0);
        assert!((0..1000).all(|_| meter.request(0).is_ok() && meter.begin(0, 64, u64::MAX / 2).is_ok()));
        assert_eq!(meter.left(0), (None, None));
    }

    #[test]
    fn other_limits_hold_at_once() {
        let mut meter = Meter::new(limits(1, 100, 1), 0);
        assert!(meter.request(0).is_ok() && meter.request(0).is_err() && meter.begin(0, 1, 50).is_ok());
        meter.limit(limits(2, 20, 1));
        assert!(meter.request(0).is_ok());
        assert_eq!(meter.left(0).1.map(|left| left.left), Some(0));
    }
}
