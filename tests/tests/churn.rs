//! A day of sessions that come and go, with time going a thousand times as fast. Needs root.

mod churn {
    mod day;
    mod model;
    mod wire;
}
