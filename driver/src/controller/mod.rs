//! Many hosts: [`fleet`] reaches their agents, [`cuts`] takes consistent cuts over them (one [`round`] each, whose
//! reports become [`lanes`] of a timeline on one [`clock`]).

pub mod clock;
pub mod cuts;
pub mod fleet;
pub mod lanes;
pub mod round;
