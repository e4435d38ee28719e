//! Turns a limit of the size of files into an error instead of the end of the process.

use std::sync::Once;

/// Ignores SIGXFSZ, so that a write beyond `ulimit -f` is an error and doesn't end the process.
/// Keeps a handler that the application has set.
pub(crate) fn ignore() {
    static IGNORED: Once = Once::new();
    IGNORED.call_once(|| {
        let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
        #[allow(unsafe_code, reason = "there is no safe interface to the disposition of a signal")]
        // SAFETY: `action` is written by the first call before it is read, and SIG_IGN runs no code
        // of ours.
        unsafe {
            if libc::sigaction(libc::SIGXFSZ, std::ptr::null(), action.as_mut_ptr()) == 0
                && action.assume_init().sa_sigaction == libc::SIG_DFL
            {
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            }
        }
    });
}
