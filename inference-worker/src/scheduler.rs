//! Which tokens go into the next step.
