//! Using disks only when nobody else needs them: the idle class of the kernel's IO schedulers.

use rustix::io::Errno;

use crate::syscall;

/// Class idle, in the upper three bits of sixteen.
const IDLE: u16 = 3 << 13;

/// The IO class of the thread that made this; what it was before comes back when this goes.
///
/// Threads that are started meanwhile begin with the class of this one and keep it, so a thread of a pool must not
/// start others while it is idle, unless they end before it.
#[derive(Debug)]
pub struct IoClass {
    before: Option<u16>,
    // The class is the thread's, so this must not leave it.
    _here: std::marker::PhantomData<*const ()>,
}

impl IoClass {
    /// Takes the class as it is.
    pub fn of_this_thread() -> Self {
        Self { before: None, _here: std::marker::PhantomData }
    }

    /// Changes it, or brings it back; where the kernel does not let us, all goes on as it was.
    pub fn set_idle(&mut self, is_idle: bool) {
        match (is_idle, self.before) {
            (true, None) => self.before = enter().ok(),
            (false, Some(before)) => {
                // What was set before can be set again.
                syscall::ioprio_set(before).ok();
                self.before = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
}

impl Drop for IoClass {
    fn drop(&mut self) {
        self.set_idle(false);
    }
}

fn enter() -> Result<u16, Errno> {
    let before = syscall::ioprio_get()?;
    syscall::ioprio_set(IDLE)?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_idle_for_a_while_and_so_is_what_it_starts() {
        let before = syscall::ioprio_get().unwrap();
        let mut class = IoClass::of_this_thread();
        class.set_idle(true);
        class.set_idle(true);
        assert_eq!(syscall::ioprio_get().unwrap(), IDLE);
        let child = std::thread::spawn(|| syscall::ioprio_get().unwrap());
        assert_eq!(child.join().unwrap(), IDLE);
        class.set_idle(false);
        assert_eq!(syscall::ioprio_get().unwrap(), before);
        class.set_idle(true);
        drop(class);
        assert_eq!(syscall::ioprio_get().unwrap(), before);
    }
}
