//! Who works with what. A call that changes an object claims it for itself, one that reads it for a while (a copy)
//! shares it; who comes second is told to try again, as CSI wants it (ABORTED).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{PoolError, Result};
use crate::domain::{CutId, VolumeId};

/// What can be claimed.
pub(super) trait Claimed: ToString {
    /// By what it is claimed: volumes and cuts never share a key.
    fn key(&self) -> String;
}

impl Claimed for VolumeId {
    /// A name has one volume at a time in a pool, so those of one name keep each other out.
    fn key(&self) -> String {
        format!("{}-v{}", self.pool, self.hash)
    }
}

impl Claimed for CutId {
    fn key(&self) -> String {
        self.to_string()
    }
}

/// Claimed objects by their keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims {
    held: Arc<Mutex<BTreeMap<String, Holder>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    One,
    Many(usize),
}

/// A claim; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Claims,
    key: String,
}

impl Claims {
    /// Nobody else may have it meanwhile.
    pub(super) fn exclusive(&self, object: &impl Claimed) -> Result<Claim> {
        let key = object.key();
        let mut held = self.lock();
        if held.contains_key(&key) {
            return Err(PoolError::Busy(object.to_string()));
        }
        held.insert(key.clone(), Holder::One);
        Ok(Claim { claims: self.clone(), key })
    }

    /// Others may share it.
    pub(super) fn shared(&self, object: &impl Claimed) -> Result<Claim> {
        let key = object.key();
        let mut held = self.lock();
        let count = match held.get(&key) {
            Some(Holder::One) => return Err(PoolError::Busy(object.to_string())),
            Some(Holder::Many(count)) => *count,
            None => 0,
        };
        held.insert(key.clone(), Holder::Many(count + 1));
        Ok(Claim { claims: self.clone(), key })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Holder>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut held = self.claims.lock();
        match held.get(&self.key) {
            Some(Holder::Many(count)) if *count > 1 => {
                let left = Holder::Many(count - 1);
                held.insert(self.key.clone(), left);
            }
            Some(Holder::One | Holder::Many(_)) | None => drop(held.remove(&self.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Incarnation, PoolId};

    fn volume(name: &str, birth: u32) -> VolumeId {
        VolumeId::new(PoolId::from_random([1; 6]), name, Incarnation(birth))
    }

    #[test]
    fn one_or_many_but_never_both() {
        let (claims, a, b) = (Claims::default(), volume("a", 1), volume("b", 1));
        let first = claims.shared(&a).unwrap();
        let second = claims.shared(&a).unwrap();
        assert!(claims.exclusive(&a).is_err());
        drop(first);
        assert!(claims.exclusive(&a).is_err());
        drop(second);
        let alone = claims.exclusive(&a).unwrap();
        assert!(claims.exclusive(&a).is_err() && claims.shared(&a).is_err());
        assert!(claims.exclusive(&b).is_ok());
        drop(alone);
        assert!(claims.shared(&a).is_ok());
    }

    #[test]
    fn volumes_of_one_name_keep_each_other_out() {
        let claims = Claims::default();
        let _first = claims.exclusive(&volume("a", 1)).unwrap();
        assert!(claims.exclusive(&volume("a", 2)).is_err());
    }
}
