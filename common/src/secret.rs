//! Values that can never be formatted.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A secret: it has no `Display`, its `Debug` says nothing, it is not serialisable, and it is zeroed on drop.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Wraps a secret.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// Returns the secret itself; every caller is a place to look at in a review.
    pub fn expose(&self) -> &T {
        &self.0
    }

    /// Returns the secret itself, to be added to. What grows may be moved and leave a copy behind, so it must have room.
    pub fn expose_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Zeroize> std::fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}
