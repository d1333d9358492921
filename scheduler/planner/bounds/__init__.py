"""What no plan can exceed: relaxations, patterns and the least disruption."""
