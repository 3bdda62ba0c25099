const Page = () => "A page in front of a hub.";

export default Page;
