FROM quay.io/astronomer/astro-runtime:3.3-2
