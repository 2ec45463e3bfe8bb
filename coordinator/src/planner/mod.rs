//! Plans. Pure.
