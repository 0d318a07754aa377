//! What runs the model: one thread owns it, everybody else sends it work.
