//! Messages between agent and guard: one packet each on a `SOCK_SEQPACKET` socket, descriptors beside them.

use crate::throttle::Hierarchy;

/// Most descriptors in one packet; the kernel's own limit (`SCM_MAX_FD`) is 253. More members: more packets.
pub const DESCRIPTORS_PER_PACKET: usize = 250;
/// Most limits of a device in one packet: each has eight bytes beside its descriptor.
pub const LIMITS_PER_PACKET: usize = 60;
/// Longest packet in bytes: a refusal with its reason.
pub const PACKET_BYTES: usize = 512;
/// No hold is guarded for longer than this, whatever is asked for.
pub const LONGEST_LIMIT_MS: u32 = 30_000;

const ARM: u8 = 1;
const DISARM: u8 = 2;
const ARMED: u8 = 3;
const REFUSED: u8 = 4;
const DISARMED: u8 = 5;
const ARM_LIMITS: u8 = 6;

/// What an agent says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Guard the descriptors of this packet too; the limit counts from the first packet.
    Arm {
        /// Thaw by yourself after this many milliseconds.
        limit_ms: u32,
    },
    /// Guard the write limits of a loop device whose files are the descriptors of this packet.
    ArmLimits {
        /// As above.
        limit_ms: u32,
        /// The device.
        minor: u32,
        /// How the limits are written.
        hierarchy: Hierarchy,
        /// What to put each of them back to, in the order of the descriptors.
        lifted: Vec<u64>,
    },
    /// The hold is over.
    Disarm,
}

/// What the guard answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// All descriptors of the packet are guarded.
    Armed,
    /// None of them is; the reason in words.
    Refused(String),
    /// The hold is over.
    Disarmed {
        /// The limit had passed and the guard had thawed.
        fired: bool,
    },
}

impl Request {
    /// As bytes of one packet.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Arm { limit_ms } => [&[ARM][..], &limit_ms.to_le_bytes()].concat(),
            Self::ArmLimits { limit_ms, minor, hierarchy, lifted } => {
                let version = match hierarchy {
                    Hierarchy::V1 => 1,
                    Hierarchy::V2 => 2,
                };
                let mut packet =
                    [&[ARM_LIMITS, version][..], &limit_ms.to_le_bytes(), &minor.to_le_bytes()].concat();
                packet.extend(lifted.iter().flat_map(|limit| limit.to_le_bytes()));
                packet
            }
            Self::Disarm => vec![DISARM],
        }
    }

    /// From the bytes of one packet; `None` when they are none of ours.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        match packet {
            [ARM, limit @ ..] => Some(Self::Arm { limit_ms: u32::from_le_bytes(limit.try_into().ok()?) }),
            [ARM_LIMITS, version @ (1 | 2), rest @ ..] => {
                let hierarchy = if *version == 1 { Hierarchy::V1 } else { Hierarchy::V2 };
                let (limit, rest) = rest.split_first_chunk()?;
                let (minor, rest) = rest.split_first_chunk()?;
                let (lifted, odd) = rest.as_chunks();
                odd.is_empty().then(|| Self::ArmLimits {
                    limit_ms: u32::from_le_bytes(*limit),
                    minor: u32::from_le_bytes(*minor),
                    hierarchy,
                    lifted: lifted.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect(),
                })
            }
            [DISARM] => Some(Self::Disarm),
            _ => None,
        }
    }
}

impl Answer {
    /// As bytes of one packet; a reason is cut to fit.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Armed => vec![ARMED],
            Self::Refused(why) => {
                let room = why.len().min(PACKET_BYTES - 1);
                [&[REFUSED][..], &why.as_bytes()[..room]].concat()
            }
            Self::Disarmed { fired } => vec![DISARMED, u8::from(*fired)],
        }
    }

    /// From the bytes of one packet; `None` when they are none of ours.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        match packet {
            [ARMED] => Some(Self::Armed),
            [REFUSED, why @ ..] => Some(Self::Refused(String::from_utf8_lossy(why).into_owned())),
            [DISARMED, fired @ (0 | 1)] => Some(Self::Disarmed { fired: *fired == 1 }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_a_round_trip() {
        let lifted = vec![u64::MAX; LIMITS_PER_PACKET];
        let limits = Request::ArmLimits { limit_ms: 9, minor: 300, hierarchy: Hierarchy::V2, lifted };
        for request in [Request::Arm { limit_ms: 10_000 }, limits, Request::Disarm] {
            assert!(request.encode().len() <= PACKET_BYTES);
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        for answer in [Answer::Armed, Answer::Refused("no".into()), Answer::Disarmed { fired: true }] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }

    #[test]
    fn garbage_is_no_message() {
        for packet in [
            &[][..],
            &[9],
            &[ARM],
            &[ARM, 1, 2, 3],
            &[ARM_LIMITS, 3, 0, 0, 0, 0, 0, 0, 0, 0],
            &[ARM_LIMITS, 1, 0, 0, 0, 0, 0, 0, 0, 0, 7],
            &[DISARM, 0],
            &[DISARMED, 7],
        ] {
            assert_eq!(Request::decode(packet), None);
            assert_eq!(Answer::decode(packet), None);
        }
    }
}
