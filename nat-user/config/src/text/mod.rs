//! Text, whatever it means: opening files of others, places in a text, words in messages.

pub mod input;
pub mod visible;

pub(crate) mod lines;
pub(crate) mod suggest;
pub(crate) mod words;
