//! How many files and directories each user may hold open: what one takes, nobody else of this mount has, since all
//! share the daemon's descriptors.
//!
//! A user who is not root may hold as many as are still free then, so one alone gets half of all, two a third each, and
//! a newcomer always finds some (dynamic thresholds, Choudhury and Hahne 1998). Root is counted and never refused.

use super::error::FsError;
use super::operations::Done;
use crate::types::{Caller, HandleId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Descriptors that an open file may need: on the backend, of its object, for locks.
const DESCRIPTORS_EACH: usize = 3;

pub(super) struct HandleShares {
    handles_max: usize,
    taken: Mutex<Taken>,
    held: Mutex<HashMap<Holding, Share>>,
}

#[derive(Default)]
struct Taken {
    by_all: usize,
    by_user: HashMap<u32, usize>,
}

/// Files and directories are numbered each by themselves.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Holding {
    File(HandleId),
    Directory(HandleId),
}

/// Given back when dropped.
struct Share {
    shares: Arc<HandleShares>,
    user: u32,
}

impl HandleShares {
    /// `descriptors`: those the daemon may have; a quarter of them is for other things.
    pub fn new(descriptors: usize) -> Self {
        Self {
            handles_max: descriptors / 4 * 3 / DESCRIPTORS_EACH,
            taken: Mutex::default(),
            held: Mutex::default(),
        }
    }

    /// The way an open is answered that counts for its caller until [`Self::give_back`]; `None` if too many are open,
    /// and the caller has been told.
    pub fn within<T: 'static>(
        self: &Arc<Self>,
        caller: Caller,
        done: Done<T>,
        holding: fn(&T) -> Holding,
    ) -> Option<Done<T>> {
        let Some(share) = self.take(caller.uid) else {
            done(Err(FsError::TooManyOpen));
            return None;
        };
        Some(Box::new(move |outcome| {
            // Before the answer: the kernel may close at once.
            if let Ok(reply) = &outcome {
                let shares = share.shares.clone();
                shares.held.lock().insert(holding(reply), share);
            }
            done(outcome);
        }))
    }

    pub fn give_back(&self, holding: Holding) {
        let share = self.held.lock().remove(&holding);
        drop(share);
    }

    fn take(self: &Arc<Self>, user: u32) -> Option<Share> {
        let mut taken = self.taken.lock();
        let free = self.handles_max.saturating_sub(taken.by_all);
        let own = taken.by_user.get(&user).copied().unwrap_or(0);
        if user != 0 && own >= free {
            return None;
        }
        taken.by_all += 1;
        taken.by_user.insert(user, own + 1);
        drop(taken);
        Some(Share {
            shares: self.clone(),
            user,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock();
        taken.by_all -= 1;
        if let Some(own) = taken.by_user.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                taken.by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: usize = 300;

    fn shares() -> Arc<HandleShares> {
        Arc::new(HandleShares::new(ALL * 4))
    }

    fn take_all(shares: &Arc<HandleShares>, user: u32) -> Vec<Share> {
        std::iter::from_fn(|| shares.take(user)).collect()
    }

    #[test]
    fn a_user_alone_gets_half_and_each_newcomer_half_of_the_rest() {
        let shares = shares();
        let first = take_all(&shares, 1);
        assert_eq!(first.len(), ALL / 2);
        let second = take_all(&shares, 2);
        assert_eq!(second.len(), ALL / 4);
        assert!(shares.take(3).is_some());
        drop(first);
        assert!(shares.take(2).is_some());
    }

    #[test]
    fn root_is_never_refused_and_what_it_takes_counts() {
        let shares = shares();
        let roots: Vec<_> = (0..2 * ALL).map(|_| shares.take(0).unwrap()).collect();
        assert!(shares.take(1).is_none());
        drop(roots);
        assert!(shares.take(1).is_some());
    }

    #[test]
    fn an_open_that_fails_takes_no_share() {
        let shares = shares();
        let caller = Caller {
            uid: 1,
            gid: 1,
            pid: 1,
        };
        let holding: fn(&HandleId) -> Holding = |handle| Holding::File(*handle);
        for _ in 0..2 * ALL {
            let done = shares.within(caller, Box::new(|_| ()), holding).unwrap();
            done(Err(FsError::Stale));
        }
        let done = shares.within(caller, Box::new(|_| ()), holding).unwrap();
        done(Ok(HandleId(7)));
        assert_eq!(shares.taken.lock().by_all, 1);
        shares.give_back(Holding::Directory(HandleId(7)));
        assert_eq!(shares.taken.lock().by_all, 1);
        shares.give_back(Holding::File(HandleId(7)));
        assert_eq!(shares.taken.lock().by_all, 0);
        assert!(shares.taken.lock().by_user.is_empty());
    }
}
