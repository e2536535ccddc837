//! The memory of an agent: short-term, long-term, observer, goal and gates, as state machines over numbers
