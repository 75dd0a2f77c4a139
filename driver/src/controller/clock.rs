//! Aligning the clocks of several hosts.
//!
//! Hosts have monotonic clocks with unrelated zeros. Each order that is answered gives four instants; the exchange
//! with the shortest time on the wire says best what one clock reads when the other reads something, and is wrong by
//! half of that time at most.

/// One order and its answer. Microseconds; `sent` and `answered` on the controller's clock, the others on the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// The controller sent the order.
    pub sent_us: u64,
    /// The host received it.
    pub host_received_us: u64,
    /// The host answered.
    pub host_answered_us: u64,
    /// The controller received the answer.
    pub answered_us: u64,
}

/// How to read a host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Alignment {
    /// Add this to an instant of the host to get the controller's.
    pub offset_us: i64,
    /// The true offset is at most this far away.
    pub error_us: u64,
}

impl Exchange {
    fn on_the_wire_us(self) -> u64 {
        let there = self.host_answered_us.saturating_sub(self.host_received_us);
        self.answered_us.saturating_sub(self.sent_us).saturating_sub(there)
    }

    fn offset_us(self) -> i64 {
        let to = signed(self.sent_us) - signed(self.host_received_us);
        let back = signed(self.answered_us) - signed(self.host_answered_us);
        i64::midpoint(to, back)
    }
}

impl Alignment {
    /// The best reading of these exchanges; without any, offset and error are zero.
    pub fn of(exchanges: &[Exchange]) -> Self {
        exchanges.iter().min_by_key(|exchange| exchange.on_the_wire_us()).map_or_else(Self::default, |best| {
            Self { offset_us: best.offset_us(), error_us: best.on_the_wire_us().div_ceil(2) }
        })
    }

    /// An instant of the host on the controller's clock.
    pub fn read(self, host_us: u64) -> i64 {
        signed(host_us).saturating_add(self.offset_us)
    }
}

fn signed(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_clock_that_says_anything_is_read() {
        for host in [0, 1, u64::MAX / 2, u64::MAX] {
            for sent_us in [0, u64::MAX] {
                let exchange = Exchange {
                    sent_us,
                    host_received_us: host,
                    host_answered_us: u64::MAX - host,
                    answered_us: host,
                };
                let found = Alignment::of(&[exchange]);
                // Adding up must not overflow; what comes out means nothing.
                assert!(found.read(u64::MAX) >= found.read(host));
            }
        }
    }

    proptest! {
        /// Whatever the two directions took, the true offset is within the error.
        #[test]
        fn the_true_offset_is_within_the_error(
            offset in -1_000_000_000_i64..1_000_000_000,
            trips in proptest::collection::vec((0_u64..50_000, 0_u64..5_000_000, 0_u64..50_000), 1..6),
        ) {
            let exchange = |(to, there, back): &(u64, u64, u64)| {
                let sent_us = 2_000_000_000_u64;
                let host_received_us = (signed(sent_us + to) - offset).cast_unsigned();
                Exchange {
                    sent_us,
                    host_received_us,
                    host_answered_us: host_received_us + there,
                    answered_us: sent_us + to + there + back,
                }
            };
            let exchanges: Vec<_> = trips.iter().map(exchange).collect();
            let found = Alignment::of(&exchanges);
            prop_assert!((found.offset_us - offset).unsigned_abs() <= found.error_us);
        }
    }
}
