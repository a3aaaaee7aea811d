//! Why natbpf's rules cannot express an option.

/// Of limits, and of rules that take their turns.
pub(crate) const COUNTS: &str = "natbpf's rules do not count packets";

/// How options about extension headers of IPv6 begin.
const HEADERS: [&str; 9] = [
    "--frag",
    "--rt-",
    "--header",
    "--soft",
    "--hbh-",
    "--dst-len",
    "--dst-opts",
    "--mh-",
    "--ah",
];

/// Why natbpf's rules cannot express an option.
pub(super) fn reason_of(option: &str) -> String {
    let has = |words: &[&str]| words.iter().any(|word| option.contains(word));
    let of_header = HEADERS.iter().any(|known| option.starts_with(known));
    let reason = if of_header {
        "natbpf's rules do not look at extension headers: it reads past those that it may pass, \
         and drops what is malformed"
    } else if has(&["owner", "socket"]) {
        "natbpf does not know which process sent a packet"
    } else if has(&["mark"]) {
        "natbpf's rules do not look at marks"
    } else if has(&["physdev"]) {
        "natbpf's rules match a bridge, not its ports"
    } else if has(&["match-set"]) {
        "natbpf has no sets: write a rule for each of their addresses"
    } else if has(&["--pol", "--dir", "--strict", "--reqid", "--spi", "--tunnel"]) {
        "natbpf's rules do not look at IPsec policies: exclude the other side's prefix instead"
    } else if has(&[
        "limit",
        "connlimit",
        "--every",
        "--mode",
        "--packet",
        "--prob",
        "quota",
    ]) {
        COUNTS
    } else if has(&[
        "recent",
        "seconds",
        "--rsource",
        "hitcount",
        "--name",
        "--rcheck",
    ]) {
        "natbpf's rules do not remember senders"
    } else if has(&["time", "date", "weekdays", "monthdays", "utc"]) {
        "natbpf's rules do not depend on the time"
    } else if has(&["-type"]) {
        "natbpf's rules do not match types of addresses or messages"
    } else if has(&["--ports"]) {
        "natbpf's rules cannot match either the source or the destination port"
    } else {
        return format!("natbpf's rules have no equivalent of {option}");
    };
    reason.to_owned()
}
