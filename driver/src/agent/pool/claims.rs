//! Who works with what. A call that changes an object claims it for itself, one that reads it for a while (a copy)
//! shares it; who comes second is told to try again, as CSI wants it (ABORTED).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{PoolError, Result};

/// Claimed objects by their ids. Volumes and cuts never share an id.
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
    id: String,
}

impl Claims {
    /// Nobody else may have it meanwhile.
    pub(super) fn exclusive(&self, id: &impl ToString) -> Result<Claim> {
        let id = id.to_string();
        let mut held = self.lock();
        if held.contains_key(&id) {
            return Err(PoolError::Busy(id));
        }
        held.insert(id.clone(), Holder::One);
        Ok(Claim { claims: self.clone(), id })
    }

    /// Others may share it.
    pub(super) fn shared(&self, id: &impl ToString) -> Result<Claim> {
        let id = id.to_string();
        let mut held = self.lock();
        let count = match held.get(&id) {
            Some(Holder::One) => return Err(PoolError::Busy(id)),
            Some(Holder::Many(count)) => *count,
            None => 0,
        };
        held.insert(id.clone(), Holder::Many(count + 1));
        Ok(Claim { claims: self.clone(), id })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Holder>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut held = self.claims.lock();
        match held.get(&self.id) {
            Some(Holder::Many(count)) if *count > 1 => {
                let left = Holder::Many(count - 1);
                held.insert(self.id.clone(), left);
            }
            Some(Holder::One | Holder::Many(_)) | None => drop(held.remove(&self.id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_or_many_but_never_both() {
        let claims = Claims::default();
        let first = claims.shared(&"a").unwrap();
        let second = claims.shared(&"a").unwrap();
        assert!(claims.exclusive(&"a").is_err());
        drop(first);
        assert!(claims.exclusive(&"a").is_err());
        drop(second);
        let alone = claims.exclusive(&"a").unwrap();
        assert!(claims.exclusive(&"a").is_err() && claims.shared(&"a").is_err());
        assert!(claims.exclusive(&"b").is_ok());
        drop(alone);
        assert!(claims.shared(&"a").is_ok());
    }
}
