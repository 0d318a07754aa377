//! From a conversation to a prompt.
