//! The one owner of path system calls below a migration root.
//!
//! Everything that reads or changes a tree (transfer, backup, undo, configuration, maintenance) does it
//! through held directory descriptors ([`Dir`]) and single path components ([`Name`]).
//! It guarantees that no call made here follows a symbolic link below a root, opens a fifo or a device in
//! the place of a file, creates over something that exists, or reaches outside of the root by a name.
//! A directory that is moved while it is held stays the same directory: what is held is worked on.
//!
//! ```text
//! Root::open(path) ──dir()──▶ Dir ──open_dir(Name)──▶ Dir ──open_file(Name)──▶ ReadFile
//!                             │                        ├──create_file(Name)──▶ NewFile
//!                             └──open_beneath(bytes)   ├──pin(Name)─────────▶ Pinned (any kind, by inode)
//!                                                      └──list()────────────▶ Listing
//! ```
//!
//! The crate decides nothing: it does not know manifests, stages or plans, retries nothing but
//! interrupted calls, writes no logs and reads no clock.
//! A failed call is a [`TreeError`] that says which call, on which name (escaped), and why.
//! What an older kernel lacks is probed ([`Kernel`], [`Features`]) and replaced step by step; what cannot
//! be replaced answers `is_unsupported()`, so that the caller takes its other order.
//! The threat model and the rules are in `README.md`.

mod access;
mod append_file;
mod applied;
mod beneath;
mod create;
mod created_root;
mod dir;
mod elsewhere;
mod error;
mod escape;
mod idle;
mod kernel;
mod listing;
mod lock;
mod metadata;
mod mount;
mod name;
mod new_file;
mod pinned;
mod place;
mod probe;
mod quota;
mod read_file;
mod remove_tree;
mod rename;
mod rename_domain;
mod root;
#[cfg(test)]
mod scratch;
mod small_file;
mod stat;
mod syscall;
mod watch;
mod xattr;

pub use append_file::AppendFile;
pub use applied::{Applied, Attribute, Problem};
pub use created_root::CreatedDir;
pub use dir::Dir;
pub use error::{Result, TreeError};
pub use escape::escape;
pub use idle::IoClass;
pub use kernel::Kernel;
pub use listing::{Listing, RawEntry};
pub use lock::HeldLock;
pub use metadata::Metadata;
pub use name::{Name, NameError};
pub use new_file::NewFile;
pub use pinned::Pinned;
pub use place::{Identity, Place, Position, Relation};
pub use probe::{Features, Packing, Space};
pub use quota::{Quota, QuotaOf, Quotas};
pub use read_file::{DataExtents, ReadFile};
pub use rename_domain::{FileSystem, RenameDomain};
pub use root::Root;
pub use stat::{DeviceKind, Kind, Stat, Time, device_number, device_pair};
pub use watch::{WatchEvent, WatchId, Watcher};
pub use xattr::{XattrError, Xattrs};
