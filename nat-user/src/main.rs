//! temporary
fn main() -> anyhow::Result<()> {
    env_logger::Builder::new().filter_level(log::LevelFilter::Debug).filter_module("netlink_proto", log::LevelFilter::Info).filter_module("aya_obj", log::LevelFilter::Info).init();
    let a: Vec<String> = std::env::args().collect();
    let options = nat_user::daemon::Options { config: a[2].clone().into(), run_dir: a[3].clone().into(), bpffs: a[4].clone().into(), log_packets: a.len()>5 };
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match a[1].as_str() {
        "run" => rt.block_on(nat_user::daemon::run(options)),
        _ => { for l in rt.block_on(nat_user::daemon::tear_down(&options.run_dir, &options.bpffs))? { println!("{l}"); } Ok(()) }
    }
}
