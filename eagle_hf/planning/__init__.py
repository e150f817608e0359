"""Mathematics of speculation: the best trees, policies, cost tables and the roofline."""
