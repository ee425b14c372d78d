"""What a scrape of a host costs the agent."""
