//! Threads that compute together.
//!
//! A token is some two hundred short products, microseconds each, so threads that slept between
//! them would cost more than they bring. They are woken once, look for work for a moment after each
//! product, and sleep when none comes.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread looks for work before it sleeps.
const PATIENCE: Duration = Duration::from_micros(100);

/// Looks after which a thread lets others have its processor, if any wait for it, and looks at the
/// clock.
const LOOKS: u32 = 64;

/// What candle reads how often its threads look for work from.
const CANDLE_LOOKS: &str = "CANDLE_BARRIER_POOL_SPIN_LIMIT";

/// Has the threads of the tensor library sleep sooner when they have nothing to do, unless the
/// environment says otherwise. They would look for work for half a millisecond after each sum of large
/// tensors, on the cores that the next product wants: a sixth of a training step's time on two cores.
///
/// # Safety
/// No other thread runs yet: this sets an environment variable.
pub unsafe fn shorten_idling() {
    if std::env::var_os(CANDLE_LOOKS).is_none() {
        // SAFETY: passed on to the caller.
        unsafe { std::env::set_var(CANDLE_LOOKS, "1000") };
    }
}

/// Threads that compute together, the caller among them. Clones share them.
///
/// Work of several callers takes turns: the threads serve one
/// [`Model::forward`](crate::Model::forward) at a time. So models that share threads do not slow
/// each other down by more than their share.
#[derive(Clone)]
pub struct Threads {
    team: Arc<Team>,
}

impl Threads {
    /// `count` threads: the caller of each work and `count − 1` new ones, which sleep while there
    /// is no work and end when the last clone is dropped.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn new(count: NonZeroUsize) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut team = Team { shared, turn: Mutex::new(()), workers: Vec::new() };
        for index in 1..count.get() {
            let shared = Arc::clone(&team.shared);
            let builder = std::thread::Builder::new().name(format!("cart-{index}"));
            team.workers.push(builder.spawn(move || shared.serve())?);
        }
        Ok(Self { team: Arc::new(team) })
    }

    /// Threads that the whole process shares: as many as the rayon pool has in which this is called
    /// first, or fewer if the system refuses more.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Threads> = OnceLock::new();
        SHARED.get_or_init(|| {
            let count =
                NonZeroUsize::new(rayon::current_num_threads()).unwrap_or(NonZeroUsize::MIN);
            Self::new(count)
                .or_else(|_| Self::new(NonZeroUsize::MIN))
                .expect("one thread is no new one")
        })
    }

    /// How many threads.
    pub fn count(&self) -> usize {
        self.team.workers.len() + 1
    }

    /// Runs `work` on this thread, with the others at hand for its
    /// [`split`](crate::parallel::split)s. On a thread that computes already, those stay at hand.
    pub(crate) fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        if self.count() == 1 || CURRENT.get().is_some() {
            return work();
        }
        // Whoever panicked during a turn has left no work behind.
        let _turn = lock(&self.team.turn);
        let shared = &*self.team.shared;
        shared.wake();
        let _at_hand =
            AtHand::set(Some(Current { shared: NonNull::from(shared), count: self.count() }));
        work()
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").field("count", &self.count()).finish()
    }
}

/// Threads at hand on this thread.
pub(crate) fn at_hand() -> usize {
    CURRENT.get().map_or(1, |current| current.count)
}

/// Calls `work` with each of `0..parts`, by the threads at hand.
pub(crate) fn share(parts: usize, work: &(dyn Fn(usize) + Sync)) {
    let Some(current) = CURRENT.get() else {
        (0..parts).for_each(work);
        return;
    };
    // Work inside of work stays on its thread.
    let _none = AtHand::set(None);
    // SAFETY: `Threads::run` holds the team while it is at hand, and the turn.
    unsafe { current.shared.as_ref().perform(parts, work) }
}

#[derive(Clone, Copy)]
struct Current {
    shared: NonNull<Shared>,
    count: usize,
}

thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

/// Puts back what was at hand before.
struct AtHand(Option<Current>);

impl AtHand {
    fn set(current: Option<Current>) -> Self {
        Self(CURRENT.replace(current))
    }
}

impl Drop for AtHand {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

struct Team {
    shared: Arc<Shared>,
    turn: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake();
        for worker in self.workers.drain(..) {
            // A worker catches what its work panics with.
            let _ = worker.join();
        }
    }
}

/// What the threads of a team see.
#[derive(Default)]
struct Shared {
    /// Number of the job, parts of it, and the next part: 32, 16 and 16 bits. Taking a part is
    /// adding one.
    ticket: AtomicU64,
    /// The job of the ticket, as long as one of its parts is not finished.
    job: AtomicPtr<Job<'static>>,
    unfinished: AtomicUsize,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
    stop: AtomicBool,
}

struct Job<'a> {
    work: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Shared {
    /// Calls `work` with each of `0..parts`. Only one thread may be here at a time.
    fn perform(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        let count = u16::try_from(parts).expect("work is cut into few parts");
        let job = Job { work, panic: Mutex::new(None) };
        self.unfinished.store(parts, Ordering::Relaxed);
        self.job.store((&raw const job).cast_mut().cast(), Ordering::Relaxed);
        let number = (self.ticket.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        self.ticket.store(number << 32 | u64::from(count) << 16, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
        while let Some(part) = self.take() {
            self.finish(part);
        }
        let mut looks = 0_u32;
        while self.unfinished.load(Ordering::Acquire) > 0 {
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(LOOKS) {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        self.job.store(null_mut(), Ordering::Relaxed);
        let panic = lock(&job.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Takes a part of the job.
    fn take(&self) -> Option<usize> {
        let mut ticket = self.ticket.load(Ordering::SeqCst);
        loop {
            let (parts, next) = (ticket >> 16 & 0xffff, ticket & 0xffff);
            if next >= parts {
                return None;
            }
            let taken = self.ticket.compare_exchange_weak(
                ticket,
                ticket + 1,
                Ordering::SeqCst,
                Ordering::SeqCst,
            );
            match taken {
                Ok(_) => return Some(next as usize),
                Err(now) => ticket = now,
            }
        }
    }

    /// Does a part that was taken.
    fn finish(&self, part: usize) {
        // SAFETY: the job was stored before its ticket, and lives while a part is not finished.
        let job = unsafe { &*self.job.load(Ordering::Relaxed) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (job.work)(part))) {
            *lock(&job.panic) = Some(panic);
        }
        self.unfinished.fetch_sub(1, Ordering::Release);
    }

    /// What a worker does for all its life.
    fn serve(&self) {
        let mut since = Instant::now();
        let mut looks = 0_u32;
        loop {
            if let Some(part) = self.take() {
                self.finish(part);
                (since, looks) = (Instant::now(), 0);
                continue;
            }
            std::hint::spin_loop();
            looks += 1;
            if !looks.is_multiple_of(LOOKS) {
                continue;
            }
            std::thread::yield_now();
            if since.elapsed() > PATIENCE {
                if !self.sleep() {
                    return;
                }
                (since, looks) = (Instant::now(), 0);
            }
        }
    }

    /// Sleeps until there may be work; false at the end.
    fn sleep(&self) -> bool {
        let bed = lock(&self.bed);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let ticket = self.ticket.load(Ordering::SeqCst);
        // Whoever stores a ticket or the end after this sees the sleeper and rings.
        let work = ticket & 0xffff < ticket >> 16 & 0xffff;
        if !work && !self.stop.load(Ordering::SeqCst) {
            drop(self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner));
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        !self.stop.load(Ordering::SeqCst)
    }

    /// Wakes who sleeps.
    fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.bed));
            self.bell.notify_all();
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(count: usize) -> Threads {
        Threads::new(NonZeroUsize::new(count).unwrap()).unwrap()
    }

    #[test]
    fn every_part_is_done_once() {
        for count in [1, 2, 3, 5] {
            let threads = threads(count);
            for parts in (1..200).chain([65_535]) {
                let done: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                threads.run(|| {
                    share(parts, &|part| {
                        // Inside of work there is nobody else.
                        assert_eq!(at_hand(), 1);
                        share(2, &|_| {
                            done[part].fetch_add(1, Ordering::Relaxed);
                        });
                    });
                    assert_eq!(at_hand(), count);
                });
                assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 2));
            }
            assert_eq!(at_hand(), 1);
        }
    }

    #[test]
    fn sleepers_wake_for_work_in_the_middle() {
        let threads = threads(3);
        for _ in 0..20 {
            threads.run(|| {
                for _ in 0..3 {
                    // Longer than their patience.
                    std::thread::sleep(PATIENCE * 3);
                    let met = AtomicUsize::new(0);
                    // Each part waits for the others, so each has a thread of its own.
                    share(3, &|_| {
                        met.fetch_add(1, Ordering::SeqCst);
                        while met.load(Ordering::SeqCst) < 3 {
                            std::thread::yield_now();
                        }
                    });
                }
            });
        }
    }

    #[test]
    fn callers_take_turns() {
        let threads = threads(2);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        threads.run(|| {
                            share(8, &|_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 4 * 500 * 8);
    }

    #[test]
    fn a_panic_comes_back_to_the_caller_and_threads_go_on() {
        let threads = threads(2);
        for bad in 0..6 {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                threads.run(|| share(6, &|part| assert_ne!(part, bad, "on purpose")));
            }));
            assert!(panicked.is_err());
            let done = AtomicUsize::new(0);
            threads.run(|| {
                share(6, &|_| {
                    done.fetch_add(1, Ordering::Relaxed);
                });
            });
            assert_eq!(done.load(Ordering::Relaxed), 6);
        }
    }
}
