//! Messages between agent and guard: one packet each on a `SOCK_SEQPACKET` socket, descriptors beside them.

/// Most descriptors in one packet; the kernel's own limit (`SCM_MAX_FD`) is 253. More members: more packets.
pub const DESCRIPTORS_PER_PACKET: usize = 250;
/// Longest packet in bytes: a refusal with its reason.
pub const PACKET_BYTES: usize = 512;
/// No hold is guarded for longer than this, whatever is asked for.
pub const LONGEST_LIMIT_MS: u32 = 30_000;

const ARM: u8 = 1;
const DISARM: u8 = 2;
const ARMED: u8 = 3;
const REFUSED: u8 = 4;
const DISARMED: u8 = 5;

/// What an agent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Guard the descriptors of this packet too; the limit counts from the first packet.
    Arm {
        /// Thaw by yourself after this many milliseconds.
        limit_ms: u32,
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
    pub fn encode(self) -> Vec<u8> {
        match self {
            Self::Arm { limit_ms } => [&[ARM][..], &limit_ms.to_le_bytes()].concat(),
            Self::Disarm => vec![DISARM],
        }
    }

    /// From the bytes of one packet; `None` when they are none of ours.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        match packet {
            [ARM, limit @ ..] => Some(Self::Arm { limit_ms: u32::from_le_bytes(limit.try_into().ok()?) }),
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
        for request in [Request::Arm { limit_ms: 10_000 }, Request::Disarm] {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        for answer in [Answer::Armed, Answer::Refused("no".into()), Answer::Disarmed { fired: true }] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }

    #[test]
    fn garbage_is_no_message() {
        for packet in [&[][..], &[9], &[ARM], &[ARM, 1, 2, 3], &[DISARM, 0], &[DISARMED, 7]] {
            assert_eq!(Request::decode(packet), None);
            assert_eq!(Answer::decode(packet), None);
        }
    }
}
