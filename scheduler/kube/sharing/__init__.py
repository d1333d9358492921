"""How GPU sharing systems of others write down which devices a pod has: one row per protocol."""
