//! From tokens back to text, tool calls and reasoning.
